"""Finds attributes that a class of the core lists neither in STATE nor in DERIVED."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def attributes(part: object) -> Iterator[str]:
    """Yield the names of the part's attributes: its slots, and others that were set."""
    # A class that names a single slot may have a plain string as its __slots__.
    for cls in type(part).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots
    yield from getattr(part, "__dict__", ())


def undeclared(part: Any) -> list[str]:
    """Return the attributes that are neither in the part's STATE nor in its DERIVED. The tests want none."""
    # An attribute in neither list would be lost in a snapshot, without any error.
    known = {member.attribute for member in part.STATE}.union(part.DERIVED)
    return sorted(set(attributes(part)) - known)
