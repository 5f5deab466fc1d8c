"""Several writers on one real database file: what must happen once happens once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

SCRIPT = '''
import threading
import django
django.setup()
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connection
call_command("setup", verbosity=0)
from tests.console import cast
from tests.console.gateways.agent import signed_request
from vpnconsole.accounts import audit, services as accounts
from vpnconsole.accounts.models import AuditEvent, User
from vpnconsole.gateways import fleet, services as gateways
from vpnconsole.gateways.models import FleetCA
from vpnconsole.vpn import services
from vpnconsole.vpn.models import Tunnel

def together(count, work):
    results, barrier = [], threading.Barrier(count)
    def run(number):
        barrier.wait()
        try:
            work(number)
            results.append("done")
        except (ValidationError, gateways.EnrolmentRefusedError) as error:
            results.append(type(error).__name__)
        finally:
            connection.close()
    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return sorted(results)

good = "correct horse battery staple"
print(together(4, lambda n: accounts.create_first_user(username=f"user-{n}", password=good)))
paris, lyon = cast.make_paris(), cast.make_lyon()
data = [cast.tunnel_input(paris, lyon, cast.make_psk(f"k{n}"), name=f"t{n}") for n in range(4)]
print(together(4, lambda n: services.create_tunnel(None, data[n])))
print(together(4, lambda n: fleet.ensure_fleet_ca()), FleetCA.objects.count())
token = gateways.issue_enrolment_token(None, paris)
requests = [signed_request(token) for _ in range(4)]
print(together(4, lambda n: gateways.enrol(requests[n], "192.0.2.1")))
print(together(4, lambda n: [audit.record(None, f"step {n} {i}") for i in range(15)]))
print(User.objects.count(), Tunnel.objects.count(), AuditEvent.objects.filter(action="gateway.enrolled").count())
print(audit.verify())
'''  # fmt: skip


@pytest.mark.slow
def test_once_is_once(tmp_path: Path) -> None:
    env = {**os.environ, "VPNCONSOLE_DATA_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "vpnconsole.settings"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line != "ready" and not line.startswith("made ")]
    assert lines[:6] == [
        "['ValidationError', 'ValidationError', 'ValidationError', 'done']",
        "['ValidationError', 'ValidationError', 'ValidationError', 'done']",
        "['done', 'done', 'done', 'done'] 1",
        "['EnrolmentRefusedError', 'EnrolmentRefusedError', 'EnrolmentRefusedError', 'done']",
        "['done', 'done', 'done', 'done']",
        "1 1 1",
    ]
    assert lines[6].endswith("problem='')")
