"""The hint after a command that failed: it names the command that was mistyped, for every kind of typing error."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from device.guest.table import PROFILES
from hmp.monitor.registry import TABLE
from hmp.terminal.hints import advice
from tests.support.machines import monitor_on, run

SLIPS: dict[str, Callable[[str, int], str]] = {
    "two letters change places": lambda name, at: name[: at - 1] + name[at] + name[at - 1] + name[at + 1 :],
    "one is left out": lambda name, at: name[:at] + name[at + 1 :],
    "one comes twice": lambda name, at: name[: at + 1] + name[at:],
    "one is wrong": lambda name, at: name[:at] + ("q" if name[at] != "q" else "z") + name[at + 1 :],
    "capitals": lambda name, at: name.upper(),
}

TOPICS = {each: list(TABLE[each].topics or ()) for each in ("info", "sim")}

NAMES = [
    *[("{}", name, list(TABLE)) for name in TABLE],
    *[
        (f"{before}{each} {{}}", name, names)
        for each, names in TOPICS.items()
        for before in ("", "help ", "sim watch 1 2 ")
        if each == "info" or "watch" not in before
        for name in names
    ],
    *[("sim guest {}", name, list(PROFILES)) for name in PROFILES],
    *[(f"sim guest {name},{{}}=1", key, list(each.keys)) for name, each in PROFILES.items() for key in each.keys],
]
"""Lines, the name in each, and all names that could stand there."""


@pytest.mark.parametrize("slip", SLIPS)
def test_a_mistyped_name_is_guessed(slip: str) -> None:
    monitor = monitor_on()
    monitor.host_files = True
    wrong = {}
    for line, name, names in NAMES:
        typed = SLIPS[slip](name, len(name) // 2) if len(name) > 2 or slip == "capitals" else name
        if typed in names or name == "qom-get":  # qom-set is as near
            continue
        reply = run(monitor, line.format(typed))
        told = advice(line.format(typed), reply.text)
        meant = name if "guest" in line else line.format(name)
        if not reply.failed or told != f"did you mean: {meant}":
            wrong[line.format(typed)] = told or reply.text
    assert not wrong
