from typing import Any

from django.db import migrations

from vpnconsole.vpn.defaults import create_defaults


def forwards(apps: Any, _schema_editor: Any) -> None:
    create_defaults(apps)


class Migration(migrations.Migration):
    dependencies = [("vpn", "0001_initial")]

    operations = [migrations.RunPython(forwards, migrations.RunPython.noop)]
