"""The web application for uvicorn: ``uvicorn vpnconsole.asgi:application``."""

from __future__ import annotations

from django.core.asgi import get_asgi_application

from vpnconsole.env import require_set_up, select_settings

select_settings()
require_set_up()

application = get_asgi_application()
