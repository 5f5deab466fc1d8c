"""How many negotiations may be half open: what keeps unproven addresses from costing much, in either IKE version."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfOpenLimits:
    """Negotiations that a peer began and has not authenticated.

    In IKEv2, from ``cookie_threshold`` on, or for one address from ``cookie_per_address`` on, cookies are demanded
    (0: always); beyond ``total`` or, for one address, ``per_address``, requests are dropped. Cookies begin well below
    ``per_address``: whoever forges a peer's address must not fill what that peer itself, with a cookie, still gets.
    """

    cookie_threshold: int = 64
    cookie_per_address: int = 32
    per_address: int = 64
    total: int = 2_000
