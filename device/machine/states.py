"""The states of machines and of requests. Only type checkers import this."""

from __future__ import annotations

from typing import Literal

RunState = Literal["running", "paused", "prelaunch", "shutdown"]
"""Of a machine: RUNNING, PAUSED, PRELAUNCH, SHUTDOWN."""

RequestState = Literal["pending", "answered", "timed out", "unsupported", "no device", "cancelled"]
"""Of a StatsRequest: PENDING, ANSWERED, TIMED_OUT, UNSUPPORTED, NO_DEVICE, CANCELLED."""
