"""The door every API view stands behind: bearer token, JSON in and out, errors in one form.

An error is ``{"error": code, "message": sentence, "field": name or null}``. No view is reached by a browser's session,
so there is nothing for a forged request to ride on and no CSRF token to ask for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import NON_FIELD_ERRORS, ObjectDoesNotExist, RequestDataTooBig, ValidationError
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt

from vpnconsole.accounts.models import User
from vpnconsole.accounts.services import authenticate_api_token

P = ParamSpec("P")


class ApiRequest(HttpRequest):
    """A request whose bearer token was right; ``plain`` is its JSON body, empty for GET."""

    user: User
    plain: dict[str, Any]


class ApiError(Exception):
    """An answer other than the one asked for."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field

    def response(self) -> JsonResponse:
        """Return the error in the API's form."""
        return JsonResponse({"error": self.code, "message": self.message, "field": self.field}, status=self.status)


View = Callable[Concatenate[ApiRequest, P], JsonResponse]


def endpoint(*methods: str) -> Callable[[View[P]], Callable[Concatenate[HttpRequest, P], HttpResponseBase]]:
    """Let a view be reached by ``methods`` with a bearer token; turns errors into the API's form."""

    def decorate(view: View[P]) -> Callable[Concatenate[HttpRequest, P], HttpResponseBase]:
        @csrf_exempt
        @login_not_required
        @never_cache
        @wraps(view)
        def answer(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            try:
                return view(_admit(request, methods), *args, **kwargs)
            except ApiError as error:
                response = error.response()
                if error.status == 401:
                    response["WWW-Authenticate"] = "Bearer"
                if error.status == 405:
                    response["Allow"] = ", ".join(methods)
                return response
            except ValidationError as error:
                return _invalid(error).response()
            except ObjectDoesNotExist:
                return ApiError(404, "not-found", "There is no such thing.").response()

        return answer

    return decorate


def _admit(request: HttpRequest, methods: tuple[str, ...]) -> ApiRequest:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    user = authenticate_api_token(token.strip()) if scheme.lower() == "bearer" else None
    if user is None:
        raise ApiError(401, "unauthorised", "Send a valid API token: Authorization: Bearer ...")
    if request.method not in methods:
        raise ApiError(405, "method-not-allowed", f"Use {' or '.join(methods)}.")
    request.user = user
    request.plain = _body(request) if request.method == "POST" else {}  # type: ignore[attr-defined]
    return request  # type: ignore[return-value]


def _body(request: HttpRequest) -> dict[str, Any]:
    try:
        octets = request.body
    except RequestDataTooBig:
        raise ApiError(413, "too-large", "The body is too large.") from None
    if not octets:
        return {}
    try:
        plain = json.loads(octets)
    except (ValueError, RecursionError):
        raise ApiError(400, "not-json", "The body is not JSON.") from None
    if not isinstance(plain, dict):
        raise ApiError(400, "not-an-object", "The body must be a JSON object.")
    return plain


def _invalid(error: ValidationError) -> ApiError:
    if hasattr(error, "error_dict"):
        name, problems = next(iter(error.message_dict.items()))
        return ApiError(422, "invalid", problems[0], None if name == NON_FIELD_ERRORS else name)
    return ApiError(422, "invalid", error.messages[0])
