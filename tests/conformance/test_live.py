"""hmp's modelled Linux against a real one under the real QEMU, step by step.

The table is live_table.py. A row is equal on both sides, or live_differences.py says exactly how it differs and why. All
rows are played once in a test run, whichever of its processes comes first, every group on a machine of its own, both
sides and all groups at the same time: it takes about a minute, mostly of QEMU's limit of one event a second.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tempfile
import traceback
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from hmp.monitor.registry import INFO, TABLE
from hmp.qmp.commands import COMMANDS
from hmp.qmp.events import FORWARDED_EVENTS
from tests.conformance.live_differences import DIFFERENCES
from tests.conformance.live_table import ELSEWHERE, GROUPS, INVENTORY, Row
from tests.support.live import Hmp, Play, Qemu, Side, Unavailable, built, locked

ROWS = {row.id: row for rows, *_ in GROUPS.values() for row in rows}
Told = dict[str, dict[str, list[str]]]
"""By side and row: its transcript. Under "trouble" what went wrong, by side and group."""


def play(group: str, kind: type[Side], told: Told) -> None:
    rows, memory, device, more = GROUPS[group]
    try:
        with tempfile.TemporaryDirectory(prefix="live-") as folder:
            side = kind(Path(folder), memory, device, list(more) if kind is Qemu else [])
            try:
                player = Play(side)
                for row in rows:
                    told[kind.__name__][row.id] = player.row(row.steps, row.dialect)
            except Exception:
                said = (Path(folder) / "err").read_text(errors="replace")[-500:]
                told["trouble"][f"{kind.__name__} {group}"] = [row.id, traceback.format_exc(), *player.lines[-5:], said]
            finally:
                side.close()
    except Exception:
        told["trouble"][f"{kind.__name__} {group}"] = [traceback.format_exc()]


def play_all() -> Told:
    told: Told = {"Qemu": {}, "Hmp": {}, "trouble": {}}
    threads = [Thread(target=play, args=(group, kind, told)) for group in GROUPS for kind in (Qemu, Hmp)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What both sides said, played by the first process that asks."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    result = shared / "live.json"
    with locked(shared / "live.lock"):
        if not result.exists():
            try:
                built()
                result.write_text(json.dumps(play_all()))
            except Unavailable as error:
                result.write_text(json.dumps(str(error)))
    found: Any = json.loads(result.read_text())
    if isinstance(found, str):
        pytest.skip(found)
    return found  # type: ignore[no-any-return]


def compared(row: Row, lines: list[str]) -> list[str]:
    """Return the lines without what is the kernel's own."""
    for pattern in row.kernel:
        lines = [re.sub(pattern, "~", line) for line in lines]
    lines = [line for line in lines if re.search(row.only, line)]
    return sorted(lines) if row.unordered else lines


def differences(row: Row, told: Told) -> list[str]:
    """Return the lines that only QEMU (-) and only hmp (+) said, in order."""
    sides = [compared(row, told[side][row.id]) for side in ("Qemu", "Hmp")]
    return [
        line for line in difflib.unified_diff(*sides, n=0, lineterm="") if not line.startswith(("---", "+++", "@@"))
    ]


@pytest.mark.slow
@pytest.mark.external
class TestLive:
    def test_every_row_was_played(self, told: Told) -> None:
        assert told["trouble"] == {}

    @pytest.mark.parametrize("id", ROWS)
    def test_replies_differ_only_as_the_table_says(self, id: str, told: Told) -> None:
        assert all(id in told[side] for side in ("Qemu", "Hmp")), "not played: see test_every_row_was_played"
        assert differences(ROWS[id], told) == DIFFERENCES.get(id, ("", []))[1]

    def test_every_event_was_seen(self, told: Told) -> None:
        heard = {
            json.loads(line[6:])["event"] for lines in told["Hmp"].values() for line in lines if line[:6] == "event "
        }
        assert heard == FORWARDED_EVENTS | {"BALLOON", "BALLOON_CHANGE"}


def test_every_command_is_in_the_table() -> None:
    steps = [step.replace("qmp hmp ", "hmp ") for row in ROWS.values() for step in row.steps]
    lines = [step.split() for step in steps if step.startswith("hmp ")]
    typed = {TABLE[words[1]].name for words in lines}
    topics = {words[2] for words in lines if words[1] == "info"}
    asked = {step.split()[1] for step in steps if step.startswith("qmp ")} | {"human-monitor-command"}
    elsewhere = ELSEWHERE.keys() | INVENTORY
    assert typed | elsewhere >= {command.name for command in TABLE.values()}
    names = {topic.name for topic in INFO}
    assert topics <= names
    assert names - topics <= elsewhere, "not QEMU's? then ELSEWHERE of live_table.py has it; else a row"
    assert asked | ELSEWHERE.keys() >= COMMANDS.keys()


def test_what_is_listed_as_different_is_in_the_table() -> None:
    assert DIFFERENCES.keys() <= ROWS.keys()
    assert all(reason and lines for reason, lines in DIFFERENCES.values())
