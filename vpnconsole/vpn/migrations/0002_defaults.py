from django.db import migrations

from vpnconsole.vpn.defaults import create_defaults


def forwards(apps, _schema_editor):
    create_defaults(apps)


class Migration(migrations.Migration):
    dependencies = [("vpn", "0001_initial")]

    operations = [migrations.RunPython(forwards, migrations.RunPython.noop)]
