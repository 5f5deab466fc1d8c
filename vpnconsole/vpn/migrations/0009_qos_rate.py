import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("vpn", "0008_endpoint_context"),
    ]

    operations = [
        migrations.AddField(
            model_name="qospolicy",
            name="rate_kbps",
            field=models.PositiveIntegerField(
                blank=True,
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(64),
                    django.core.validators.MaxValueValidator(10000000),
                ],
                verbose_name="Rate (kbit/s)",
            ),
        ),
    ]
