"""``POST /enrol/v1``: where an agent exchanges its one-time token for a certificate. The proof is the log-in."""

from __future__ import annotations

import json
import logging

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from agents.contract.codec import decode, encode
from agents.contract.enrolment import SignedRequest
from agents.contract.errors import DocumentError
from vpnconsole.gateways import services
from vpnconsole.gateways.fleet import RequestRefusedError
from vpnconsole.lib.http import client_address

logger = logging.getLogger(__name__)

_MOST_OCTETS = 64 * 1024
_REFUSED = "This token cannot be used: it was used already, has expired or was never issued. Ask for a new one."


@csrf_exempt
@login_not_required
@require_POST
def enrol_view(request: HttpRequest) -> HttpResponse:
    """200 SignedGrant; 400 a request that cannot be read or signed; 403 a token that is not good, never saying why."""
    if len(request.body) > _MOST_OCTETS:
        return _error(413, "too-large", f"At most {_MOST_OCTETS} octets.")
    source = client_address(request)
    try:
        signed = decode(SignedRequest, request.body)
        grant = services.enrol(signed, source)
    except DocumentError as error:
        return _error(400, "invalid", error.problem, path=error.path)
    except RequestRefusedError as error:
        logger.warning("! enrolment from=%s refused: certificate request %s", source, error)
        return _error(400, "invalid", str(error), path="request.csr_pem")
    except services.EnrolmentRefusedError as error:
        logger.warning("! enrolment from=%s refused: %s", source, error.reason)
        return _error(403, "refused", _REFUSED)
    return HttpResponse(encode(grant), content_type="application/json")


def _error(status: int, error: str, message: str, **more: str) -> HttpResponse:
    body = json.dumps({"error": error, "message": message, **more})
    return HttpResponse(body, status=status, content_type="application/json")
