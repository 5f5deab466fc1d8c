"""Fixed choices about gateways, with the words people see."""

from __future__ import annotations

from django.db import models


class GatewayKind(models.TextChoices):
    """Whether we run the gateway or only know of it."""

    MANAGED = "managed", "Managed"
    EXTRANET = "extranet", "Extranet"


class DataPlaneChoice(models.TextChoices):
    """Which data plane carries ESP; the values are the contract's."""

    AUTO = "auto", "Automatic"
    KERNEL = "kernel", "Kernel (XFRM)"
    USERSPACE = "userspace", "Userspace"
