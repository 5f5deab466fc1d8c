"""The web application for uvicorn: ``uvicorn vpnconsole.asgi:application``."""

from __future__ import annotations

import warnings

from django.core.asgi import get_asgi_application

from vpnconsole.env import require_set_up, select_settings

select_settings()
require_set_up()
# WhiteNoise hands out small static files by a plain iterator, which costs a thread's hop and no more; said once per
# start it only frightens who reads the log.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")

application = get_asgi_application()
