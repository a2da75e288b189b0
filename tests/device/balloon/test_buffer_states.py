"""The states of the statistics buffer: the table, its drawing in docs/design.md, and that no guest can break it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from device.balloon.spec import F_STATS_VQ
from device.balloon.stats_queue import ABSENT, HELD, MOVES, OUT, UNPRIMED
from device.virtio.spec import STATUS_ACKNOWLEDGE, STATUS_DRIVER, bit
from tests.support.rig import FEATURES, Rig

DESIGN = Path(__file__).parents[3] / "docs/design.md"
ALL = sorted({move for moves in MOVES.values() for move in moves})


def test_the_design_shows_the_table() -> None:
    rows = re.findall(r"^\| `(.*?)` \| (.*) \|$", DESIGN.read_text().partition("## The statistics buffer")[2], re.M)
    head = re.search(r"^\| state \| (.*) \|$", DESIGN.read_text(), re.M)
    assert head is not None
    moves = [move.strip("` ") for move in head[1].split("|")]
    shown = {
        state: {move: leads.strip("` ") for move, leads in zip(moves, row.split("|"), strict=True) if leads.strip()}
        for state, row in rows
    }
    assert shown == MOVES


@pytest.mark.parametrize("state", MOVES)
@pytest.mark.parametrize("move", ALL)
def test_a_move_leads_where_the_table_says_and_any_other_changes_nothing(state: str, move: str) -> None:
    with Rig() as rig:
        stats = rig.device.stats
        stats.buffer = state
        if move in MOVES[state]:
            stats.move(move)
            assert stats.buffer == MOVES[state][move]
        else:
            with pytest.raises(ValueError, match=f"that is {state} has no move '{move}'"):
                stats.move(move)
            assert stats.buffer == state
        stats.buffer = ABSENT


def test_the_life_of_a_buffer() -> None:
    with Rig() as rig:
        stats = rig.device.stats
        seen = [stats.buffer]
        rig.up(prime=None)
        seen.append(stats.buffer)
        rig.report(b"\0")
        seen.append(stats.buffer)
        rig.ask()
        seen.append(stats.buffer)
        rig.ask()
        seen.append(stats.buffer)
        rig.report(b"\0")
        seen.append(stats.buffer)
        rig.device.write_status(0)
        assert [*seen, stats.buffer] == [ABSENT, UNPRIMED, HELD, OUT, OUT, HELD, ABSENT]


def test_a_driver_may_choose_features_again_until_they_are_settled() -> None:
    with Rig() as rig:
        device = rig.device
        for status in (0, STATUS_ACKNOWLEDGE, STATUS_ACKNOWLEDGE | STATUS_DRIVER):
            device.write_status(status)
        seen = []
        for features in (FEATURES, FEATURES, FEATURES & ~bit(F_STATS_VQ), FEATURES):
            device.accept_features(features)
            seen.append(device.stats.buffer)
        assert seen == [UNPRIMED, UNPRIMED, ABSENT, UNPRIMED]


def test_features_that_come_too_late_move_no_buffer() -> None:
    with Rig() as rig:
        rig.up()
        rig.device.accept_features(FEATURES & ~bit(F_STATS_VQ))
        assert (rig.device.stats.buffer, rig.device.stats.index) == (HELD, 2)
