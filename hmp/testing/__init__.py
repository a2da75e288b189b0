"""Simulated machines with QEMU's monitors in the process of a test, for programs that talk to QEMU.

With pytest the fixture `fake_qemu` makes them; FakeQemu is also a context manager. One daemon thread serves all, and
every method may be called from any thread or coroutine. No thread, socket or file is left behind.
FakeQemu, SimError and StandstillWarning are public (see `device` for what that promises).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hmp.testing.machine import FakeQemu, SimError, StandstillWarning

__all__ = ["FakeQemu", "SimError", "StandstillWarning"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: the pytest plugin is in this package, and must cost nothing if
    unused."""
    if name in __all__:
        from hmp.testing import machine

        return getattr(machine, name)
    raise AttributeError(f"module 'hmp.testing' has no attribute '{name}'")
