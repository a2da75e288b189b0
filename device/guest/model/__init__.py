"""Modelled guests: a kernel's memory, a balloon driver, and faults that can be combined."""

from __future__ import annotations

NEVER = -1
"""The time of an event that does not come."""

CENTURY = 1 << 62
"""The most ns of VM time that a snapshot may let a guest wait: 146 years."""

KERNEL_TIMERS = frozenset(("boot", "off"))
"""The timers that run without a driver too."""
