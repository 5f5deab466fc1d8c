"""The name of the permission to capture and trace, as it is stored for whoever gives permissions by name."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from vpnconsole.accounts.models import User

NAME = "Can capture the traffic of tunnels, trace gateways and download both"


def migrate_to(name: str) -> None:
    MigrationExecutor(connection).migrate([("monitor", name)])


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_it_says_traces_too_also_where_it_was_stored_before_and_who_has_it_keeps_it() -> None:
    assert Permission.objects.get(codename="capture_traffic").name == NAME
    bob = User.objects.create_user("bob", password="x")
    bob.user_permissions.add(Permission.objects.get(codename="capture_traffic"))
    try:
        migrate_to("0005_stops")
        before = Permission.objects.get(codename="capture_traffic")
        assert before.name == "Can capture and download the traffic of tunnels"
    finally:
        migrate_to("0006_capture_permission_name")
    after = Permission.objects.get(codename="capture_traffic")
    assert (after.pk, after.name) == (before.pk, NAME)
    assert User.objects.get(pk=bob.pk).has_perm("monitor.capture_traffic")
