"""Sizes as settings give them, and what they allow of a device's memory."""

from __future__ import annotations

from limner.settings import Size

__all__ = ["Size", "allowed"]


def allowed(size: Size | None, total: int) -> int:
    """Bytes that may be used of `total`: all where no size was chosen."""
    return total if size is None else size.of(total)
