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


class IdentityTypeChoice(models.TextChoices):
    """Kinds of IKE identity; the values are the contract's."""

    IPV4 = "ipv4", "IPv4 address"
    IPV6 = "ipv6", "IPv6 address"
    FQDN = "fqdn", "Domain name"
    EMAIL = "email", "E-mail address"
    KEY_ID = "key-id", "Key ID"
    DN = "dn", "Distinguished name"
