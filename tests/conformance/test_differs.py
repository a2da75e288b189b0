"""docs/differs.md is complete: whatever is not QEMU's in the live table is a row of it, with a reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hmp.qmp.schema import EVENTS
from tests.conformance.live_differences import DIFFERENCES
from tests.conformance.live_table import ELSEWHERE, GROUPS

PAGE = Path(__file__).parents[2] / "docs" / "differs.md"

STATUS = "`info virtio-status`"
OLD = "`qom-list`, `qom-get` of what serves old machine types"
DELETED = "DEVICE_DELETED, behind `device_del`"
PANIC = "GUEST_PANICKED"

WHERE: dict[str, tuple[str, ...]] = {
    "before it runs": (STATUS,),
    "virtio-status": (STATUS,),
    "properties": (OLD,),
    "qom-list of the device": (OLD,),
    "qom-list of the backend": (OLD,),
    "balloon asked, seed": ("`info balloon`",),
    "query-balloon, seed": ("`query-balloon`",),
    "no snapshots": ("a `loadvm` that fails",),
    "no driver: status": (STATUS,),
    "device_del": (DELETED,),
    "device_add, polled": (DELETED,),
    "device_del while inflated, QMP": (DELETED, "`device_del`, `system_powerdown` over QMP"),
    "device_del twice, stopped": (DELETED,),
    "panic, no pvpanic": (PANIC,),
    "panic": (PANIC,),
    "oom: features": (STATUS,),
}
"""The rows of the page that tell of a difference, by their first cell."""

AS_QEMU = {"qmp_capabilities"}
"""What has no row in the live table though nothing about it differs."""

STEPS = {row.id: row.steps for rows, *_ in GROUPS.values() for row in rows}


def rows() -> list[list[str]]:
    """Return the cells of all rows of the page."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if not line.startswith("| where")]


def told(id: str) -> str:
    """Return all that the page says of a difference."""
    return "\n".join(" ".join(cells) for cells in rows() if cells[0] in WHERE[id])


def test_every_row_says_what_qemu_does_what_hmp_does_and_why() -> None:
    assert all(len(cells) == 4 and all(cells) for cells in rows()), [cells for cells in rows() if len(cells) != 4]


def test_what_differs_has_a_row_and_what_no_longer_differs_has_none() -> None:
    """Who mends the last difference that a row tells of takes the row off the page, and its name out of WHERE."""
    assert WHERE.keys() == DIFFERENCES.keys()
    assert {where for names in WHERE.values() for where in names} <= {cells[0] for cells in rows()}


@pytest.mark.parametrize("id", DIFFERENCES)
def test_each_row_names_the_difference_that_was_seen(id: str) -> None:
    """It names every event that only one side told, or else a command of those that were given."""
    events = {event for line in DIFFERENCES[id][1] for event in re.findall(r'^[-+]event {"event": "(\w+)"', line)}
    assert {event for event in events if event not in told(id)} <= (
        {"BALLOON_CHANGE"} if id == "device_del while inflated, QMP" else set()  # it only comes sooner
    )
    words = {word for step in STEPS[id] for word in re.sub("^(qmp )?hmp |^qmp ", "", step).split()[:2]}
    named = {word for span in re.findall("`([^`]+)`", told(id)) for word in span.split()}
    assert events or words & named


def test_commands_that_no_other_page_names_are_on_the_page() -> None:
    named = {span.removeprefix("info ") for cells in rows() for span in re.findall("`([^`]+)`", cells[0])}
    untold = {name.partition("|")[0] for name in ELSEWHERE.keys() - AS_QEMU} - named
    assert untold == set(), "what QEMU does not have needs a row of docs/differs.md"


def test_events_that_qemu_has_not_are_on_the_page() -> None:
    page = PAGE.read_text()
    assert {"BALLOON", "GUEST_PANICKED", "DEVICE_DELETED", "SHUTDOWN"} <= EVENTS.keys()
    assert all(event in page for event in ("BALLOON", "GUEST_PANICKED", "DEVICE_DELETED", "SHUTDOWN"))
