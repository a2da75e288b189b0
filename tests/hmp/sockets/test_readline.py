"""The line editor of monitors on sockets. Expected bytes are what QEMU 7.2 sends; see tests/conformance for the proof."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmp.monitor.monitor import HISTORY_LIMIT, History
from hmp.sockets import readline
from hmp.sockets.readline import LINE_LIMIT, PROMPT, TYPE_AHEAD_LIMIT, Line, LineEditor, Output

UP, DOWN, RIGHT, LEFT, DELETE, HOME, END = (b"\x1b[" + key for key in (b"A", b"B", b"C", b"D", b"3~", b"1~", b"4~"))
K = b"\x1b[K"
HIGH = bytes(byte for byte in range(0x80, 0x100) if byte != 0x9B)
WORDS = (b"balloon", b"info", b"stop", b"snapshot_a", b"snapshot_b", b"dir/", b"\xe9t\xe9", b"s")


def complete(head: bytes) -> tuple[bytes, Iterable[bytes]]:
    """A stand-in for the command table: every word is one of WORDS, except after `balloon `."""
    word = head.rpartition(b" ")[2]
    return word, [each for each in WORDS if each.startswith(word) and not head.startswith(b"balloon ")]


def at_prompt(history: History | None = None, completer: readline.Completer = complete) -> LineEditor:
    editor = LineEditor(PROMPT, History() if history is None else history, completer)
    assert editor.show_prompt() == PROMPT
    return editor


def play(editor: LineEditor, keys: bytes) -> tuple[bytes, list[bytes]]:
    """All that the client gets, with prompts and without what commands print, and the lines that were run."""
    out: list[bytes] = []
    lines: list[bytes] = []
    while keys:
        piece, keys = keys[: editor.room], keys[editor.room :]
        editor.feed(piece)
        while (event := editor.next_event()) is not None:
            if isinstance(event, Line):
                lines.append(bytes(event))
                out.append(editor.show_prompt())
            else:
                out.append(event)
    return b"".join(out), lines


def entered(keys: bytes, history: History | None = None) -> bytes:
    """The line that is there after `keys`."""
    return play(at_prompt(history), keys + b"\r")[1][-1]


class TestEcho:
    """QEMU draws the whole line again for every change, and moves the cursor one column at a time."""

    @pytest.mark.parametrize(
        ("keys", "echo"),
        [
            (b"a", b"a" + K), (b"abc", b"a" + K + LEFT + b"ab" + K + LEFT * 2 + b"abc" + K),
            (b"a\r", b"a" + K + b"\r\n" + PROMPT), (b"\n", b"\r\n" + PROMPT), (b"\r\n", (b"\r\n" + PROMPT) * 2),
        ],
    )  # fmt: skip
    def test_typing_and_entering(self, keys: bytes, echo: bytes) -> None:
        assert play(at_prompt(), keys)[0] == echo

    @pytest.mark.parametrize(
        ("before", "key", "echo"),
        [
            (b"", UP + DOWN, b""), (b"abc", LEFT, LEFT), (b"abc\x01", LEFT, b""), (b"abc", RIGHT, b""), (b"abc\x01", RIGHT, RIGHT),
            (b"abc", b"\x01", LEFT * 3), (b"abc\x01", b"\x05", RIGHT * 3), (b"abc", b"\x05", b""),
            (b"abc" + LEFT, b"X", LEFT * 2 + b"abXc" + K + LEFT), (b"abc\x01", b"X", b"Xabc" + K + LEFT * 3),
            (b"abc", b"\x7f", LEFT * 3 + b"ab" + K), (b"abc" + LEFT, b"\x7f", LEFT * 2 + b"ac" + K + LEFT),
            (b"abc\x01", b"\x7f", b""), (b"abc", b"\x04", b""), (b"abc" + LEFT, b"\x04", LEFT * 2 + b"ab" + K),
            (b"abc", b"\x17", LEFT * 3 + K), (b"abc", b"\x0c", b"\x1b[2J\x1b[1;1H" + PROMPT + b"abc" + K),
            (b"abc" + LEFT, b"\x0c", b"\x1b[2J\x1b[1;1H" + PROMPT + b"abc" + K + LEFT),
            (b"", b"\x0c", b"\x1b[2J\x1b[1;1H" + PROMPT),
            (b"abc", b"\x00\x02\x03\x06\x07\x0b\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x18\x19\x1a\x1c\x1d\x1e\x1f", b""),
            (b"old\rabc", UP, LEFT * 3 + b"old" + K),
            (b"abc\rabc", UP, b""),  # the same text is not drawn again
        ],
    )  # fmt: skip
    def test_what_a_key_draws(self, before: bytes, key: bytes, echo: bytes) -> None:
        editor = at_prompt()
        play(editor, before)
        assert play(editor, key) == (echo, [])

    def test_a_new_prompt_starts_on_an_empty_line(self) -> None:
        assert play(at_prompt(), b"ab\rc")[0].endswith(b"\r\n" + PROMPT + b"c" + K)


class TestKeys:
    @pytest.mark.parametrize(
        ("keys", "line"),
        [
            (b"abc", b"abc"), (b"", b""), (b"   ", b"   "), (b"abc" + LEFT * 2 + b"X", b"aXbc"),
            (b"abc" + LEFT * 9 + b"X", b"Xabc"), (b"abc" + LEFT * 2 + RIGHT * 9 + b"X", b"abcX"),
            (b"abc\x01X\x05Y", b"XabcY"), (b"abc" + HOME + b"X" + END + b"Y", b"XabcY"),
            (b"abc\x1bOHX\x1bOFY", b"XabcY"), (b"abc\x7f\x08", b"a"), (b"a\x7f\x7f\x7fb", b"b"),
            (b"abc\x01\x04" + DELETE, b"c"), (b"ab cd\x17", b"ab "), (b"ab cd  \x17", b"ab "),
            (b"ab cd" + LEFT + b"\x17", b"ab d"), (b"  ab\x17", b"  "), (b" ab\x17", b""), (b"   \x17", b""),
            (b"a\x00\x03\x15\x0bb", b"ab"), ("é€".encode(), "é€".encode()), (HIGH, HIGH),
            (b"ab\x9bDX", b"aXb"),  # CSI in one byte
            (b"ab\x1b[1;5DX", b"ab5DX"),  # QEMU does not know modifiers
            (b"ab\x1b[HX", b"abX"), (b"ab\x1bODX", b"abX"), (b"ab\x1bqX\x1b\x1b[DY", b"abX[DY"),
            (b"ab\x1b[0001~X", b"Xab"), (b"ab\x1b[4294967297~X", b"Xab"), (b"ab\x1b[" + b"9" * 50 + b"~X", b"abX"),
            (b"a\x1b\rb\x1b[\rc\x1bO\rd", b"abcd"),
        ],
    )  # fmt: skip
    def test_line_after_keys(self, keys: bytes, line: bytes) -> None:
        assert entered(keys) == line

    @pytest.mark.parametrize("key", [b"G", b"X", b"a", b"q", b"u", b":", b"<", b"?"])
    def test_a_key_that_nobody_knows_is_dropped_alone(self, key: bytes) -> None:
        assert entered(b"ab\x1b[" + key + b"X") == b"abX"

    def test_a_line_ends_at_4095_bytes_wherever_it_is_typed(self) -> None:
        full = b"a" * 4095
        assert len(full) == LINE_LIMIT
        assert entered(full + b"XYZ") == entered(full + LEFT + b"XYZ") == full
        assert entered(full + LEFT + b"\x7fXYZ") == full[:-2] + b"Xa"


class TestHistory:
    @pytest.mark.parametrize(
        ("entered_before", "kept"),
        [
            ([b"a", b"b"], [b"a", b"b"]), ([b"a", b"b", b"a"], [b"b", b"a"]), ([b"a", b"a"], [b"a"]),
            ([b"", b"a", b""], [b"a"]), ([b"  ", b"a"], [b"  ", b"a"]),
            ([b"%d" % i for i in range(70)], [b"%d" % i for i in range(6, 70)]),
            ([b"%d" % i for i in range(64)] + [b"0"], [b"%d" % i for i in range(1, 64)] + [b"0"]),
        ],
    )  # fmt: skip
    def test_lines_kept(self, entered_before: list[bytes], kept: list[bytes]) -> None:
        history = History()
        play(at_prompt(history), b"".join(line + b"\r" for line in entered_before))
        assert [line.encode("utf-8", "surrogateescape") for line in history.entries()] == kept
        history.entries().append("a copy")
        assert len(history) == len(kept) <= HISTORY_LIMIT

    @pytest.mark.parametrize(
        ("keys", "line"),
        [
            (UP, b"c"), (UP * 3, b"a"), (UP * 9, b"a"), (UP * 2 + DOWN, b"c"), (UP + DOWN, b""), (DOWN, b""),
            (b"half" + UP + DOWN, b""), (b"half" + DOWN, b"half"), (UP + b"X", b"cX"),
            (UP * 2 + b"\x17\r" + UP, b"a"),  # an empty line does not end the browsing
            (UP * 2 + b"\r" + UP, b"b"), (b"\x1b[F\x1b[F\x1b[E", b"c"),
        ],
    )  # fmt: skip
    def test_browsing_a_b_c(self, keys: bytes, line: bytes) -> None:
        history = History()
        for each in (b"a", b"b", b"c"):
            history.add(each.decode())
        assert entered(keys, history) == line

    def test_the_last_line_of_a_full_history_again_keeps_the_place(self) -> None:
        history = History()
        for i in range(HISTORY_LIMIT):
            history.add(str(i))
        assert entered(UP + b"\r" + UP, history) == b"62"

    def test_it_is_shared_by_clients_and_outlives_them(self) -> None:
        history = History()
        one, two = at_prompt(history), at_prompt(history)
        play(one, b"first\r")
        assert play(two, UP + b"\r")[1] == [b"first"]
        assert entered(UP, history) == b"first"

    def test_a_place_in_it_survives_what_other_clients_enter(self) -> None:
        history = History()
        one, two = at_prompt(history), at_prompt(history)
        play(one, b"a\rb\r" + UP * 2)
        play(two, b"".join(b"%d\r" % i for i in range(HISTORY_LIMIT)) + b"7\r")
        assert play(one, DOWN * 3 + UP * 70 + b"\r")[1] == [b"0"]


class TestCompletion:
    @pytest.mark.parametrize(
        ("keys", "line"),
        [
            (b"ba\t", b"balloon "), (b"ba\tx", b"balloon x"), (b"d\t", b"dir/"), (b"\xe9\t", b"\xe9t\xe9 "),
            (b"snap\t", b"snapshot_"), (b"nothing\t", b"nothing"), (b"balloon \t", b"balloon "),
            (b"help inf\t", b"help info "), (b"inx" + LEFT + b"\t", b"info x"), (b"balloon\t\t", b"balloon "),
        ],
    )  # fmt: skip
    def test_line_after_tab(self, keys: bytes, line: bytes) -> None:
        assert entered(keys) == line

    @pytest.mark.parametrize(
        ("before", "echo"),
        [
            (b"ba", LEFT * 2 + b"balloon " + K),
            (b"sn", b"\r\nsnapshot_a  snapshot_b  \r\n" + PROMPT + b"snapshot_" + K),
            (b"sn x" + LEFT * 2, b"\r\nsnapshot_a  snapshot_b  \r\n" + PROMPT + b"snapshot_ x" + K + LEFT * 2),
        ],
    )
    def test_what_tab_draws(self, before: bytes, echo: bytes) -> None:
        editor = at_prompt()
        play(editor, before)
        assert play(editor, b"\t") == (echo, [])

    @pytest.mark.parametrize(
        ("candidates", "width", "rows"),
        [
            (b"a b", 10, [b"a b"]),  # columns are ten wide at least
            (b"aaaaaaaa b", 10, [b"aaaaaaaa b"]), (b"aaaaaaaaa b", 11, [b"aaaaaaaaa b"]), (b"c a b", 10, [b"a b c"]),
            (b"b a b", 10, [b"a b"]), (b"b \xe9 B", 10, [b"B b \xe9"]),
            (b"a b c d e f g h i j", 10, [b"a b c d e f g h", b"i j"]),
            (b"a" * 38 + b" b c", 40, [b"a" * 38 + b" b", b"c"]), (b"a" * 39 + b" b", 41, [b"a" * 39, b"b"]),
            (b"a" * 90 + b" b", 80, [b"a" * 90, b"b"]),
        ],
    )  # fmt: skip
    def test_columns(self, candidates: bytes, width: int, rows: list[bytes]) -> None:
        out, _ = play(at_prompt(completer=lambda head: (b"", candidates.split())), b"\t")
        listed = [b"".join(each.ljust(width) for each in row.split()) for row in rows]
        assert out == b"\r\n" + b"\r\n".join(listed) + b"\r\n" + PROMPT

    def test_the_same_candidate_twice_is_one(self) -> None:
        assert play(at_prompt(completer=lambda head: (b"", [b"a", b"a"])), b"\t\r")[1] == [b"a "]

    def test_candidates_that_nobody_can_type_are_left_out(self) -> None:
        offered = [b"a\x1b[2J", b"a\n", b"a\x9b", b"a\x7f", b"ab"]
        assert play(at_prompt(completer=lambda head: (b"", offered)), b"\t\r")[1] == [b"ab "]

    def test_no_more_than_256_are_looked_at(self) -> None:
        names = (b"%d" % i for i in range(10**9))
        out, _ = play(at_prompt(completer=lambda head: (b"", names)), b"\t")
        assert len(out.split()) == readline.CANDIDATE_LIMIT + 1  # and the prompt

    @pytest.mark.parametrize("candidates", [[], [b""], [b"", b"a"], [b"a"]])
    def test_odd_answers_do_no_harm(self, candidates: list[bytes]) -> None:
        play(at_prompt(completer=lambda head: (b"longer than any", candidates)), b"x\t\t\r")

    def test_it_never_makes_a_line_too_long(self) -> None:
        assert len(entered(b"a" * (LINE_LIMIT - 3) + b" b\t")) == LINE_LIMIT

    def test_it_sees_the_line_up_to_the_cursor(self) -> None:
        heads: list[bytes] = []

        def spy(head: bytes) -> tuple[bytes, list[bytes]]:
            heads.append(head)
            return b"", []

        play(at_prompt(completer=spy), b"\tab c" + LEFT + b"\t")
        assert heads == [b"", b"ab "]

    def test_an_error_of_the_completer_loses_no_input(self) -> None:
        answers: list[tuple[bytes, list[bytes]]] = []
        editor = at_prompt(completer=lambda head: answers.pop())
        editor.feed(b"ab\tc\r")
        with pytest.raises(IndexError):
            editor.next_event()
        assert editor.next_event() == b"a" + K + LEFT + b"ab" + K + LEFT * 2 + b"abc" + K + b"\r\n"
        assert editor.next_event() == b"abc"


class TestSuspended:
    """From a Line to the next show_prompt() nothing is echoed or edited, and nothing is lost."""

    def test_a_new_editor_waits_for_its_first_prompt(self) -> None:
        editor = LineEditor(PROMPT, History(), complete)
        editor.feed(b"a")
        assert (editor.waiting, editor.next_event()) == (True, None)
        assert editor.show_prompt() == PROMPT
        assert (editor.waiting, editor.next_event()) == (False, b"a" + K)

    def test_typed_ahead_runs_afterwards(self) -> None:
        editor = at_prompt()
        editor.feed(b"a\rb\x7fc\r")
        events = [editor.next_event(), editor.next_event()]
        assert events == [b"a" + K + b"\r\n", b"a"]
        assert [type(event) for event in events] == [Output, Line]
        assert (editor.waiting, editor.next_event()) == (True, None)
        editor.feed(b"d")
        assert editor.next_event() is None
        editor.show_prompt()
        assert editor.next_event() == b"b" + K + LEFT + K + b"c" + K + b"\r\n"
        assert editor.next_event() == b"c"
        editor.show_prompt()
        assert editor.next_event() == b"d" + K
        assert editor.next_event() is None

    def test_a_prompt_in_between_is_refused(self) -> None:
        editor = at_prompt()
        editor.feed(b"a\r")
        with pytest.raises(RuntimeError, match="at the prompt"):
            editor.show_prompt()
        editor.next_event()
        with pytest.raises(RuntimeError, match="at the prompt"):
            editor.show_prompt()
        assert editor.next_event() == b"a"
        assert editor.show_prompt() == PROMPT

    def test_room_shrinks_until_nothing_is_taken(self) -> None:
        editor = LineEditor(PROMPT, History(), complete)
        assert editor.room == TYPE_AHEAD_LIMIT
        editor.feed(b"\r" * (TYPE_AHEAD_LIMIT - 1))
        assert editor.room == 1
        with pytest.raises(ValueError, match="2 bytes fed, room for 1"):
            editor.feed(b"ab")
        editor.feed(b"\r")
        assert editor.room == 0
        editor.feed(b"")
        editor.show_prompt()
        assert [editor.next_event(), editor.next_event()] == [b"\r\n", b""]
        assert editor.room == 1


class TestBounds:
    def test_a_long_line_echoes_in_pieces(self) -> None:
        editor = at_prompt()
        editor.feed(b"a" * LINE_LIMIT)
        longest = total = 0
        while (event := editor.next_event()) is not None:
            longest, total = max(longest, len(event)), total + len(event)
        assert longest <= readline.OUTPUT_LIMIT + 4 * LINE_LIMIT + 3
        assert total == sum(3 * (i - 1) + i + 3 for i in range(1, LINE_LIMIT + 1))

    def test_only_small_modules_are_imported(self) -> None:
        code = "import sys, hmp.sockets.readline, hmp.sockets.telnet; print(*sys.modules)"
        root = Path(readline.__file__).parents[2]
        done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=root)
        assert not {"re", "enum", "typing", "dataclasses", "asyncio", "inspect", "json"} & set(done.stdout.split())


KEY = st.sampled_from(
    [b"\x1b", b"\x1b[", b"\x1bO", b"\x9b", b"3", b"~", b"\t", b"\r", b"\n", b"\x01", b"\x04", b"\x05", b"\x7f", b"\x17"]
    + [b"\x0c", UP, DOWN, LEFT, RIGHT, HOME, END, DELETE, b" ", b"s", b"sn", b"ab", b"\xe9", b"\x00", b"\xff"]
)
KEYS = st.lists(KEY | st.binary(max_size=3), max_size=40).map(b"".join)


@given(KEYS, st.lists(st.integers(0, 200), max_size=20))
def test_chunks_do_not_matter(keys: bytes, cuts: list[int]) -> None:
    whole, pieces = at_prompt(), at_prompt()
    expected = play(whole, keys)
    out, lines = b"", list[bytes]()
    edges = sorted({0, len(keys), *(cut for cut in cuts if cut < len(keys))})
    for start, end in pairwise(edges):
        more, run = play(pieces, keys[start:end])
        out, lines = out + more, lines + run
    assert (out, lines) == expected


@given(KEYS, st.lists(st.integers(0, 9), max_size=60))
def test_a_wait_anywhere_changes_neither_lines_nor_echo(keys: bytes, waits: list[int]) -> None:
    expected = play(at_prompt(), keys)
    editor = at_prompt()
    out, lines = b"", list[bytes]()
    while True:
        event = editor.next_event()
        if isinstance(event, Line):
            lines.append(bytes(event))
        elif event is not None:
            out += event
        elif waits:  # something more arrives while the command runs
            size = waits.pop()
            editor.feed(keys[:size])
            keys = keys[size:]
        elif editor.waiting:
            out += editor.show_prompt()
            waits = [3]
        elif keys:
            editor.feed(keys)
            keys = b""
        else:
            break
    assert (out, lines) == expected


@given(st.lists(st.binary(max_size=200) | KEYS, max_size=20))
def test_anything_goes_and_stays_bounded(chunks: list[bytes]) -> None:
    history = History()
    editor = at_prompt(history)
    for chunk in chunks:
        _, lines = play(editor, chunk)
        assert all(len(line) <= LINE_LIMIT and not set(line) & {*b"\r\n\0\x1b\x7f\x9b"} for line in lines)
    assert editor.room == TYPE_AHEAD_LIMIT
    assert len(history) <= HISTORY_LIMIT


SCREEN_KEY = st.sampled_from(
    [LEFT, RIGHT, HOME, END, DELETE, b"\x01", b"\x05", b"\x04", b"\x7f", b"\x17", UP, DOWN, b"\x0c"]
)


@given(st.lists(SCREEN_KEY | st.text("abc xyz", max_size=5).map(str.encode), max_size=12).map(b"".join))
def test_the_screen_shows_the_line(keys: bytes) -> None:
    history = History()
    history.add("an older line")
    editor = at_prompt(history)
    screen = pyte.Screen(80, 5)
    stream = pyte.ByteStream(screen)
    stream.feed(PROMPT + play(editor, keys)[0])
    shown, column = screen.display[0].rstrip(), screen.cursor.x
    # Typing a mark shows where the editor believes its cursor is.
    line = play(editor, b"|\r")[1][0]
    assert shown == (PROMPT + line.replace(b"|", b"")).decode().rstrip()
    assert column == len(PROMPT) + line.index(b"|")
