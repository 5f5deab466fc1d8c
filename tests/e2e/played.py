"""A console in a process of its own whose gateways are played: ``python -m tests.e2e.played DIRECTORY PORT``.

Fills a new database (:mod:`tests.e2e.seed`), writes the pages' paths to ``paths.json``, serves by uvicorn, and lets the
readings advance every second as polls would. There is no broker, so pages poll and nothing is ever sent to a gateway.
The parent sets ``VPNCONSOLE_DATA_DIR``.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import django
import uvicorn
from django.core.management import call_command


def paths() -> dict[str, str]:
    """Return every page's name and path."""
    from django.urls import reverse

    from vpnconsole.gateways.models import Gateway
    from vpnconsole.rollout.models import Deployment
    from vpnconsole.vpn.models import IKEPolicy, IPsecProposal, PresharedKey, Tunnel

    tunnels = dict(Tunnel.objects.values_list("name", "pk"))
    gateways = dict(Gateway.objects.values_list("name", "pk"))
    key = PresharedKey.objects.get(name="lyon-extranet").pk
    policy = IKEPolicy.objects.get(name="default").pk
    proposal = IPsecProposal.objects.get(name="AES-256-CBC SHA2-256").pk
    return {
        "dashboard": reverse("ui:dashboard"),
        "search": reverse("ui:search") + "?q=paris",
        "tunnels": reverse("monitor:tunnels"),
        "tunnel-up": reverse("monitor:tunnel", args=[tunnels["paris-lyon"]]),
        "tunnel-down": reverse("monitor:tunnel", args=[tunnels["paris-extranet"]]),
        "tunnel-partly-up": reverse("monitor:tunnel", args=[tunnels["paris-lyon-voice"]]),
        "tunnel-half-silent": reverse("monitor:tunnel", args=[tunnels["paris-madrid"]]),
        "tunnel-not-deployed": reverse("monitor:tunnel", args=[tunnels["lyon-extranet"]]),
        "tunnel-disabled": reverse("monitor:tunnel", args=[tunnels["paris-lyon-old"]]),
        "tunnel-new": reverse("vpn:tunnel-create"),
        "tunnel-edit": reverse("vpn:tunnel-edit", args=[tunnels["paris-lyon-voice"]]),
        "tunnel-delete": reverse("vpn:tunnel-delete", args=[tunnels["paris-lyon"]]),
        "gateways": reverse("monitor:gateways"),
        "gateway": reverse("monitor:gateway", args=[gateways["paris"]]),
        "gateway-unreachable": reverse("monitor:gateway", args=[gateways["madrid"]]),
        "gateway-not-enrolled": reverse("monitor:gateway", args=[gateways["berlin"]]),
        "gateway-new": reverse("gateways:create"),
        "gateway-edit": reverse("gateways:edit", args=[gateways["paris"]]),
        "gateway-enrolment": reverse("gateways:enrolment", args=[gateways["berlin"]]),
        "gateway-delete": reverse("gateways:delete", args=[gateways["berlin"]]),
        "keys": reverse("vpn:keys"),
        "key": reverse("vpn:key", args=[key]),
        "key-new": reverse("vpn:key-create"),
        "policies": reverse("vpn:policies"),
        "policy": reverse("vpn:policy-edit", args=["ike-policy", policy]),
        "proposal": reverse("vpn:policy-edit", args=["ipsec-proposal", proposal]),
        "changes": reverse("rollout:changes"),
        "deployment": reverse("rollout:deployment", args=[Deployment.objects.latest("created_at").pk]),
        "events": reverse("monitor:events"),
        "settings": reverse("accounts:settings"),
        "tokens": reverse("accounts:tokens"),
        "audit": reverse("accounts:audit") + "?verify=1",
    }


def main(directory: Path, port: int) -> None:
    """Serve until ended."""
    django.setup()
    from tests.e2e import seed
    from vpnconsole.lib import channel
    from vpnconsole.lib.tasks import ConsoleTask

    ConsoleTask.apply_async = lambda self, *args, **options: None  # type: ignore[method-assign]
    channel.publish = lambda kind, ids: None
    channel.server_url = lambda: None
    call_command("setup", verbosity=0)
    seed.seed()
    (directory / "paths.json").write_text(json.dumps(paths()), encoding="utf-8")
    ended = threading.Event()

    def play() -> None:
        while not ended.wait(1.0):
            seed.advance()

    threading.Thread(target=play, daemon=True).start()
    try:
        uvicorn.run("vpnconsole.asgi:application", host="127.0.0.1", port=port, log_level="warning", lifespan="off")
    finally:
        ended.set()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
