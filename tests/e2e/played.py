"""A console in a process of its own whose gateways are played: ``python -m tests.e2e.played DIRECTORY PORT``.

Fills a new database (:mod:`tests.e2e.seed`), writes the pages' paths to ``paths.json``, serves by uvicorn, and lets the
readings advance every second as polls would. Nothing is ever sent to a gateway. ``--broker`` starts a broker, so that
pages hear of changes; without one they poll. ``--empty`` leaves the database without even a user. The parent sets
``VPNCONSOLE_DATA_DIR``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import django
import uvicorn
from django.core.management import call_command

from deploy.lab.netns import WITH_PARENT
from vpnconsole.env import environment


def paths() -> dict[str, str]:
    """Return every page's name and path."""
    from django.urls import reverse

    from vpnconsole.accounts.models import User
    from vpnconsole.gateways.models import Gateway
    from vpnconsole.rollout.models import Deployment
    from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy, IPsecProposal, PresharedKey, QosPolicy, Tunnel

    tunnels = dict(Tunnel.objects.values_list("name", "pk"))
    gateways = dict(Gateway.objects.values_list("name", "pk"))
    key = PresharedKey.objects.get(name="lyon-extranet").pk
    policy = IKEPolicy.objects.get(name="default").pk
    of_pairs = IPsecPolicy.objects.get(name="compatible").pk
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
        "tunnel-ikev1": reverse("monitor:tunnel", args=[tunnels["paris-aix"]]),
        "tunnel-ikev1-down": reverse("monitor:tunnel", args=[tunnels["lyon-pbx"]]),
        "tunnel-ikev1-edit": reverse("vpn:tunnel-edit", args=[tunnels["lyon-pbx"]]),
        "tunnel-on-demand": reverse("monitor:tunnel", args=[tunnels["paris-field"]]),
        "tunnel-on-demand-idle": reverse("monitor:tunnel", args=[tunnels["paris-peers"]]),
        "tunnel-on-demand-edit": reverse("vpn:tunnel-edit", args=[tunnels["paris-field"]]),
        "tunnel-manual": reverse("monitor:tunnel", args=[tunnels["lyon-extranet-manual"]]),
        "tunnel-manual-edit": reverse("vpn:tunnel-edit", args=[tunnels["lyon-extranet-manual"]]),
        "tunnel-manual-keys": reverse("vpn:manual-keys", args=[tunnels["lyon-extranet-manual"]]),
        "tunnel-new": reverse("vpn:tunnel-create"),
        "tunnel-edit": reverse("vpn:tunnel-edit", args=[tunnels["paris-lyon-voice"]]),
        "tunnel-delete": reverse("vpn:tunnel-delete", args=[tunnels["paris-lyon"]]),
        "gateways": reverse("monitor:gateways"),
        "gateway": reverse("monitor:gateway", args=[gateways["paris"]]),
        "gateway-unreachable": reverse("monitor:gateway", args=[gateways["madrid"]]),
        "gateway-not-enrolled": reverse("monitor:gateway", args=[gateways["berlin"]]),
        "gateway-make": reverse("monitor:gateway", args=[gateways["aix"]]),
        "gateway-make-edit": reverse("gateways:edit", args=[gateways["pbx"]]),
        "gateway-new": reverse("gateways:create"),
        "gateway-edit": reverse("gateways:edit", args=[gateways["paris"]]),
        "gateway-contexts-edit": reverse("gateways:edit", args=[gateways["lyon"]]),
        "gateway-enrolment": reverse("gateways:enrolment", args=[gateways["berlin"]]),
        "gateway-delete": reverse("gateways:delete", args=[gateways["berlin"]]),
        "keys": reverse("vpn:keys"),
        "key": reverse("vpn:key", args=[key]),
        "key-new": reverse("vpn:key-create"),
        "policies": reverse("vpn:policies"),
        "policy": reverse("vpn:policy-edit", args=["ike-policy", policy]),
        "ipsec-policy": reverse("vpn:policy-edit", args=["ipsec-policy", of_pairs]),
        "proposal": reverse("vpn:policy-edit", args=["ipsec-proposal", proposal]),
        "qos-policy": reverse("vpn:policy-edit", args=["qos-policy", QosPolicy.objects.get(name="priority").pk]),
        "changes": reverse("rollout:changes"),
        "deployment": reverse("rollout:deployment", args=[Deployment.objects.latest("created_at").pk]),
        "events": reverse("monitor:events"),
        "settings": reverse("accounts:settings"),
        "tokens": reverse("accounts:tokens"),
        "users": reverse("accounts:users"),
        "user": reverse("accounts:user", args=[User.objects.get(username="bob").pk]),
        "audit": reverse("accounts:audit") + "?verify=1",
    }


@contextmanager
def _broker(wanted: bool) -> Iterator[bool]:
    """Start the console's broker where it is wanted; without it, nothing is sent and pages poll."""
    from vpnconsole.lib import broker, channel

    if not wanted:
        channel.publish = lambda kind, ids: None
        channel.server_url = lambda: None
        yield False
        return
    url = channel.server_url()
    assert url is not None
    socket, data = Path(urlsplit(url).path), environment().data_path / "broker"
    for folder in (socket.parent, data):
        folder.mkdir(mode=0o700, exist_ok=True)
    # uvicorn ends this process with the signal it was sent, past any cleaning up.
    process = subprocess.Popen([*WITH_PARENT, *broker.server_command(socket, data)])
    try:
        yield True
    finally:
        process.terminate()
        process.wait(timeout=10)


def main(directory: Path, port: int, *, empty: bool, with_broker: bool) -> None:
    """Serve until ended."""
    django.setup()
    from tests.e2e import seed
    from vpnconsole.lib import channel
    from vpnconsole.lib.tasks import ConsoleTask

    ConsoleTask.apply_async = lambda self, *args, **options: None  # type: ignore[method-assign]
    call_command("setup", verbosity=0)
    with _broker(with_broker):
        if not empty:
            seed.seed()
        (directory / "paths.json").write_text(json.dumps({} if empty else paths()), encoding="utf-8")
        ended = threading.Event()

        def play() -> None:
            while not ended.wait(1.0):
                channel.publish("tunnel", seed.advance())

        if not empty:
            threading.Thread(target=play, daemon=True).start()
        try:
            uvicorn.run(
                "vpnconsole.asgi:application",
                host="127.0.0.1",
                port=port,
                log_level="warning",
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        finally:
            ended.set()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--empty", action="store_true")
    parser.add_argument("--broker", action="store_true")
    chosen = parser.parse_args()
    main(chosen.directory, chosen.port, empty=chosen.empty, with_broker=chosen.broker)
