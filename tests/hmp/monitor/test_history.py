"""The lines of a monitor: which are kept, and in which order."""

from __future__ import annotations

from hmp.monitor.monitor import HISTORY_LIMIT, History


def filled(*lines: str) -> History:
    history = History()
    for line in lines:
        history.add(line)
    return history


def test_a_repeated_line_moves_to_the_end() -> None:
    assert filled("a", "b", "c", "a").entries() == ["b", "c", "a"]
    assert filled("a", "b", "b").entries() == ["a", "b"]


def test_a_repeated_line_pushes_no_line_out_of_a_full_history() -> None:
    lines = [f"line {number}" for number in range(HISTORY_LIMIT)]
    assert filled(*lines, "line 5").entries() == [*lines[:5], *lines[6:], "line 5"]
    assert filled(*lines, "new").entries() == [*lines[1:], "new"]


def test_empty_lines_are_not_kept_and_blank_ones_are() -> None:
    assert filled("", " ", "").entries() == [" "]


def test_an_editor_goes_to_the_end_but_not_for_an_empty_line_nor_a_repeated_one_in_a_full_history() -> None:
    history = filled("a")
    assert [history.add(line) for line in ("a", "", "b")] == [True, False, True]
    for number in range(HISTORY_LIMIT):
        history.add(f"line {number}")
    newest = history.entries()[-1]
    assert [history.add(line) for line in (newest, "new")] == [False, True]


def test_a_repeated_line_belongs_to_the_client_that_typed_it_last() -> None:
    history, first, second = History(), object(), object()
    history.add("\x1b[2J", first)
    assert (history.shown(0, first), history.shown(0, second)) == ("\x1b[2J", "\\x1b[2J")
    history.add("\x1b[2J", second)
    assert (history.shown(0, first), history.shown(0, second)) == ("\\x1b[2J", "\x1b[2J")
