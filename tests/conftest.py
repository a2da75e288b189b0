"""What holds for every test."""

from __future__ import annotations

import gc
import signal

import pytest
from hypothesis import HealthCheck, settings

# The same inputs in every run, on every machine: a run that is green tells of the code and not of luck, and how long
# an example takes tells of the machine. `--hypothesis-profile=search` looks for new ones; so does `make fuzz`.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", settings.get_profile("steady"), derandomize=False)
settings.load_profile("steady")

# Whoever runs the tests in the background has it ignored, and the programs under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each external test a second try, which the summary names: a real guest on a busy machine is late at times.

    Without the plugin (the tests under Pyodide) there is none. No other test is tried twice.
    """
    if config.pluginmanager.hasplugin("rerunfailures"):
        for item in items:
            if item.get_closest_marker("external") is not None:
                item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_collection_finish() -> None:
    """Have the collector pass over what lives until the end anyway: thousands of tests and all modules."""
    gc.collect()
    gc.freeze()
