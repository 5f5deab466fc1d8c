"""Request types for views behind the log-in."""

from __future__ import annotations

from vpnconsole.accounts.models import User
from vpnconsole.lib.http import HtmxRequest


class UserRequest(HtmxRequest):
    """A request of a logged-in user."""

    user: User
