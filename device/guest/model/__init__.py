"""Modelled guests: a kernel's memory, a balloon driver, faults that compose."""

from __future__ import annotations

NEVER = -1
"""The time of what does not come."""

CENTURY = 1 << 62
"""Ns of VM time that a snapshot may have a guest wait: more than any of them lives."""

KERNEL_TIMERS = frozenset(("boot", "off"))
"""The timers that go on without a driver."""
