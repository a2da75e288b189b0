"""The states of a connection: the table, and what docs/design.md draws of it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from hmp.sockets.connection import CUT, ENDED, IDLE, MOVES, OPEN, Connection
from tests.support.sockets import Served, play

DRAWING = Path(__file__).parents[3] / "docs/drawings/connection.svg"


def drawn() -> dict[tuple[str, str], str]:
    """(state, move) and where it leads, as the titles of the drawing's arrows say."""
    found: dict[tuple[str, str], str] = {}
    for arrow in ElementTree.parse(DRAWING).iter("{http://www.w3.org/2000/svg}path"):
        title = arrow.findtext("{http://www.w3.org/2000/svg}title")
        if title is not None:
            states, _, moved = title.partition(": ")
            move, _, leads = moved.partition(" → ")
            found.update({(state, move): leads for state in states.split(", ")})
    return found


DRAWN = drawn()
PAIRS = [(state, move) for state in sorted(MOVES) for move in sorted({move for _, move in DRAWN})]


def test_the_drawing_shows_the_table() -> None:
    assert {(state, move): leads for state, moves in MOVES.items() for move, leads in moves.items()} == DRAWN


def test_every_state_is_reached_and_leads_to_the_end() -> None:
    assert {*MOVES} == {IDLE, *DRAWN.values()}
    for state in MOVES:
        reached = {state}
        while more := {leads for each in reached for leads in MOVES[each].values()} - reached:
            reached |= more
        assert ENDED in reached
    assert {state for state in MOVES if "cut" in MOVES[state]} > OPEN


@pytest.mark.parametrize(("state", "move"), PAIRS)
def test_a_move_that_is_not_drawn_raises_and_changes_nothing(state: str, move: str) -> None:
    async def scene(served: Served) -> None:
        await served.hmp()
        (connection,) = served.server.connections
        before, connection.state = connection.state, state
        if (state, move) in DRAWN:
            connection.move(move)
            assert connection.state == DRAWN[state, move]
        else:
            with pytest.raises(ValueError, match=f"^a connection that is {state} cannot {move}$"):
                connection.move(move)
            assert connection.state == state
        connection.state = before

    play(scene)


def test_a_fault_of_ours_in_a_turn_cuts_off_that_client_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only moves that no client can cause: an error within a turn, and a second cut in the same round."""
    met: list[tuple[str, str]] = []
    move = Connection.move

    def noted(connection: Connection, name: str) -> None:
        met.append((connection.state, name))
        move(connection, name)

    async def scene(served: Served) -> None:
        faulty, other = await served.hmp(), await served.hmp()
        monkeypatch.setattr(Connection, "move", noted)
        reports: list[dict[str, object]] = []
        served.loop.set_exception_handler(lambda loop, context: reports.append(context))
        monkeypatch.setattr(type(served.machine), "stop", lambda machine: 1 / 0)
        await faulty.send(b"stop\n")
        await faulty.rest()
        assert [type(report["exception"]) for report in reports] == [ZeroDivisionError]
        assert ("turning", "cut") in met
        assert await other.say("info status") == "VM status: running\n"
        (connection,) = served.server.connections
        connection.cut_off()
        connection.cut_off()
        assert connection.state == CUT
        await other.rest()
        assert connection.state == ENDED

    play(scene)
