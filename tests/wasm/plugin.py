"""A plugin of pytest for Pyodide: which tests are left out there, and why."""

from __future__ import annotations

import gc
from collections.abc import Generator
from typing import Any

import pytest

LEFT_OUT = {
    "tests/device/guest/uml": "processes",
    "tests/device/guest/vhost_user": "sockets and shared memory",
    "tests/device/virtio/test_memory.py": "memfd and holes in memory",
    **{
        f"tests/device/balloon/{each}": "holes in memory"
        for each in (
            "test_balloon.py::TestInflating::test_gives_the_pages_back",
            "test_balloon.py::TestInflating::test_a_page_twice_is_counted",
            "test_free_pages.py::TestFreePageReporting::test_gives_whole_pages_back",
            "test_free_pages.py::TestFreePageReporting::test_leaves_the_pages_of_a_guest",
            "test_free_pages.py::TestPoisonValue::test_without_the_feature_it_is_ignored",
            *(
                f"test_balloon.py::test_a_queue_that_was_not_negotiated_has_no_number[features{case}"
                for case in (3, 4, 5, 6)
            ),
        )
    },
    **{
        f"tests/device/{each}": "1 GiB for each test, which takes a second there because all of it is taken at once"
        for each in (
            "machine",
            "guest/hostile",
            "guest/test_faults",
            "guest/test_features",
            "guest/test_guest_edges",
            "guest/test_kernel.py",
            "guest/test_life_keys",
            "guest/test_modelled",
            "guest/test_oom",
        )
    },
    "tests/device/guest/test_profiles.py::test_the_host_guest_mirrors_this_machine": "/proc",
    "tests/device/test_public.py::test_a_name_brings_what_it_needs_and_no_more": "processes",
}
"""What a test needs that is not there, by the beginning of its id."""

LACKS = {
    "Python int too large to convert to C ssize_t": "2 GiB of addresses and more",
    "emscripten does not support processes": "processes",
    "No module named 'click'": "packages that a page does not have",
    "module 'os' has no attribute 'mkfifo'": "pipes with a name",
    "No module named 'resource'": "limits of processes",
}
"""The same, by the words that a test fails with."""


def pytest_ignore_collect(collection_path: Any, config: pytest.Config) -> bool | None:
    """Leave out whole modules before they are imported."""
    path = str(collection_path.relative_to(config.rootpath))
    return True if any(path.startswith(each) for each in LEFT_OUT) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip single tests."""
    for item in items:
        for each, why in LEFT_OUT.items():
            if item.nodeid.startswith(each):
                item.add_marker(pytest.mark.skip(reason=f"needs {why}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """Turn a failure for what is not there into a skip that says so."""
    report: Any = yield
    if report.failed:
        text = str(report.longrepr)
        why = next((why for words, why in LACKS.items() if words in text), None)
        if why is not None:
            report.outcome, report.longrepr = "skipped", ("", 0, f"Skipped: needs {why}")
    return report


def pytest_configure() -> None:
    """Have machines that tests leave behind give way to new ones: here all of a guest's memory is taken at once."""
    from device.errors import MisuseError
    from device.virtio.memory import GuestMemory

    own = GuestMemory.__init__

    def again(self: GuestMemory, size: int) -> None:
        try:
            own(self, size)
        except MisuseError:
            gc.collect()
            own(self, size)

    GuestMemory.__init__ = again  # type: ignore[method-assign]
