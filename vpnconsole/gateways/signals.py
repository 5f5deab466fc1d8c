"""Questions this app asks of apps above it, which it may not import."""

from __future__ import annotations

from django.dispatch import Signal

addresses_leaving = Signal()
"""Sent with ``gateway`` and ``addresses`` (a set of text) before they go; a receiver raises ValidationError to refuse."""

kind_changing = Signal()
"""Sent with ``gateway`` and ``kind`` before a gateway becomes another kind; a receiver raises ValidationError to refuse."""
