"""Questions this app asks of apps above it, which it may not import."""

from __future__ import annotations

from django.dispatch import Signal

addresses_leaving = Signal()
"""Sent with ``gateway`` and ``addresses`` (a set of text) before they go; a receiver refuses by ValidationError."""

kind_changing = Signal()
"""Sent with ``gateway`` and ``kind`` before a gateway becomes that kind; a receiver refuses by ValidationError."""

profile_changing = Signal()
"""Sent with ``gateway`` and ``profile`` (a slug) before it gets that make; a receiver refuses by ValidationError."""

legacy_ending = Signal()
"""Sent with ``gateway`` before legacy algorithms are forbidden on it; a receiver refuses by ValidationError."""
