"""The pytest plugin: the fixture `fake_qemu`, and the log of its machines in the report of a test that fails."""

from __future__ import annotations

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import Any

    from hmp.testing.machine import FakeQemu

_MACHINES: pytest.StashKey[list[FakeQemu]] = pytest.StashKey()


@pytest.fixture
def fake_qemu(request: pytest.FixtureRequest) -> Iterator[Callable[..., FakeQemu]]:
    """Make simulated machines with QEMU's monitors: `vm = fake_qemu(memory="2G", guest="slow")`.

    It takes the arguments of hmp.testing.FakeQemu. The machines end with the test.
    """
    # Imported here: pytest loads this plugin in every project of the environment.
    from hmp.testing.machine import FakeQemu, close_all

    machines = request.node.stash[_MACHINES] = []

    def make(**options: Any) -> FakeQemu:
        machines.append(FakeQemu(**options))
        return machines[-1]

    try:
        yield make
    finally:
        close_all(machines)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a failed test what the clients of its machines sent and got."""
    report = yield
    if report.failed:
        machines: list[FakeQemu] = item.stash.get(_MACHINES, [])
        for number, machine in enumerate(machines):
            report.sections.append((f"fake_qemu {number}", machine.transcript()))
    return report
