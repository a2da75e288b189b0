"""Simulated machines with QEMU's monitors, in process, for the tests of programs that talk to QEMU.

With pytest, the fixture `fake_qemu` makes them; without, FakeQemu is a context manager. One daemon thread serves all,
and every method may be called from any thread or coroutine. Nothing is left behind: not a thread, a socket or a file.
Public are FakeQemu and SimError (see `device` for what that promises).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hmp.testing.machine import FakeQemu, SimError

__all__ = ["FakeQemu", "SimError"]


def __getattr__(name: str) -> object:
    """Import what is asked for: the pytest plugin is in this package, and is to cost nothing where it is not used."""
    if name in __all__:
        from hmp.testing import machine

        return getattr(machine, name)
    raise AttributeError(f"module 'hmp.testing' has no attribute '{name}'")
