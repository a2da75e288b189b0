"""The terminal of pictures: each row of the table is what xterm.js (@xterm/headless, Unicode 11) shows in its cells."""

from __future__ import annotations

import pytest

from hmp.recording.svg_terminal import Terminal

TABLE = [
    # output, the lines of a screen of 10x4
    ("a\u26a0\ufe0fb", "a\u26a0\ufe0fb"),
    ("x\u200by", "x\u200by"),
    ("\U0001f468\u200d\U0001f469\u200d\U0001f467z", "\U0001f468\u200d\U0001f469\u200d\U0001f467z"),
    ("a\x00b\x01c\x7fd\x80e\x99f", "abcdef"),
    ("\u6f22\u5b57\u6f22\u5b57\u6f22\u5b57", "\u6f22\u5b57\u6f22\u5b57\u6f22\n\u5b57"),
    ("\u6f22\u5b57\x1b[3D\x1b[@x", " x \u5b57"),
    ("\u6f22\u5b57\r\x1b[Cx", " x\u5b57"),
    ("\x1b[>4;2mx\x1b[?4my\x1b[>1uz\x1b[<u", "xyz"),
    ("\x1b(0lqk\x1b(B0x", "\u250c\u2500\u25100x"),
    ("\x1b)0a\x0elqk\x0fx", "a\u250c\u2500\u2510x"),
    ("a\x1b[5bz", "aaaaaaz"),
    ("1\r\n2\r\n3\r\n4\x1b[2Sx", "3\n4\n\n x"),
    ("1\r\n2\r\n3\x1b[2Tx", "\n\n1x\n2"),
    ("\x1bPa\x1b\\x\x1b_c\x1b\\y\x1b^d\x1b\\z\x1bXe\x1b\\.", "xyz."),
    ("\x1b]0;title\x07x\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "xlink"),
    ("main\x1b[?1049halt\x1b[?1049lx", "mainx"),
    ("main\x1b[?47halt\x1b[?47lx", "main   x"),
    ("main\x1b[?1047halt\x1b[?1047lx", "main   x"),
    ("m\x1b7\x1b[?1049h\x1b[3;3H\x1b7a\x1b[?1049lx\x1b8y", "my"),
    ("ab\x1b[3Jc", "abc"),
    ("a\x1b7b\x1b8c\x1b8d", "ad"),
    ("a\x1b[Ib\x1b[2Zc", "c       b"),
    ("\x1b[2;3r\x1b[4;1Ha\x1b[Bb\nc", "\n\n\nabc"),
    ("\x1b[1;2;3;4Hx", " x"),
    ("\x1b[3\x18Cx", "Cx"),
    ("\x1b[3\nCx", "\n   x"),
    ("x\x1bEy\x85z", "x\ny\nz"),
    ("\x1b[3;2Hx\x1b[0;0ry", "y\n\n x"),
    ("\x1b[?7labcdefghijklm", "abcdefghim"),
    ("abcdefghijklm\x1b[1;1H\x1b[4hxy", "xyabcdefgh\nklm"),
    ("\x1b[!px\x1b[?2004hy\x1b[2 qz", "xyz"),
    ("x\x1b[?1$py", "xy"),
    ("\x1b]0;title\x1b[31mx", "x"),
    ("x\x1b[?3hy\x1b[?3lz", "xyz"),
    ("x\x1b#8", "\n".join(["E" * 10] * 4)),
]

STYLES = [
    # output, (foreground, background, underlined) of the last character
    ("\x1b[38:2::1:2:3mx", ("010203", "default", False)),
    ("\x1b[38:5:196mx", ("ff0000", "default", False)),
    ("\x1b[48;5;3mx", ("default", "brown", False)),
    ("\x1b[4:3mx", ("default", "default", True)),
    ("\x1b[4mx\x1b[4:0my", ("default", "default", False)),
    ("\x1b[58:2::1:2:3;31mx", ("red", "default", False)),
    ("\x1b[58;5;1;31mx", ("red", "default", False)),
    ("\x1b[21mx", ("default", "default", True)),
    ("\x1b[38;5;9mx", ("brightred", "default", False)),
    ("\x1b[38;2;1;2;3;4mx", ("010203", "default", True)),
    ("\x1b[>4;2mx", ("default", "default", False)),
]

SIZES = [
    # events (a size is in a tuple), the lines, the lines that scrolled away
    (["1\r\n2\r\n", (10, 2)], ["2", ""], 1),
    (["1\r\n2", (10, 2)], ["1", "2"], 0),
    (["1\r\n2\r\n3\r\n4\r\n5", (10, 2)], ["4", "5"], 3),
    (["1\r\n2\r\n3\r\n4\r\n5", (10, 2), (10, 4)], ["2", "3", "4", "5"], 1),
    (["1\r\n2\r\n3\r\n4\r\n5", (10, 6)], ["1", "2", "3", "4", "5", ""], 0),
    (["abcdefgh\r\n$ ", (4, 4)], ["abcd", "efgh", "$", ""], 0),
    (["abcdefgh\r\n$ ", (4, 4), (10, 4)], ["abcdefgh", "$", "", ""], 0),
    (["abcdefghijklmnop\r\n$ ", (20, 4)], ["abcdefghijklmnop", "$", "", ""], 0),
    (["main\x1b[?1049hx", (3, 2), "\x1b[?1049l", (10, 4)], ["main", "", "", ""], 0),
]


def lines(terminal: Terminal) -> list[str]:
    rows = [terminal.buffer[y] for y in range(terminal.lines)]
    return ["".join(row[x].data for x in range(terminal.columns)).rstrip() for row in rows]


@pytest.mark.parametrize("cut", ["whole", "by character"])
@pytest.mark.parametrize(("output", "expected"), TABLE, ids=[repr(output) for output, _ in TABLE])
def test_each_sequence_changes_the_screen_as_the_table_says(output, expected, cut):
    terminal = Terminal(10, 4)
    for part in [output] if cut == "whole" else output:
        terminal.feed(part)
    assert "\n".join(lines(terminal)).rstrip() == expected
    assert not terminal.unsupported


@pytest.mark.parametrize(("output", "expected"), STYLES, ids=[repr(output) for output, _ in STYLES])
def test_each_style_is_set_as_the_table_says(output, expected):
    terminal = Terminal(10, 4)
    terminal.feed(output)
    char = terminal.buffer[0][terminal.cursor.x - 1]
    assert (char.fg, char.bg, char.underscore) == expected
    assert not terminal.unsupported


@pytest.mark.parametrize(
    ("output", "y"), [("\x1b[41m\x1b[2J", 3), ("\x1b[41m\x1b[L", 0), ("\x1b[41m\x1b[K", 0), ("\x1b[41m\n\n\n\n", 3)]
)
def test_what_is_erased_has_the_background_that_is_set(output, y):
    terminal = Terminal(10, 4)
    terminal.feed(output)
    assert {terminal.buffer[y][x].bg for x in range(10)} == {"red"}


@pytest.mark.parametrize(("events", "expected", "gone"), SIZES)
def test_after_a_change_of_size_the_lines_are_as_the_table_says(events, expected, gone):
    terminal = Terminal(10, 4)
    for event in events:
        if isinstance(event, str):
            terminal.feed(event)
        else:
            terminal.resize(columns=event[0], lines=event[1])
    assert (lines(terminal), terminal.top) == (expected, gone)


@pytest.mark.parametrize("before", ["x", "x\x1b[?1049hy"])
def test_with_another_size_every_line_is_drawn_anew(before):
    terminal = Terminal(10, 4)
    terminal.feed(before)
    terminal.dirty.clear()
    terminal.resize(columns=12)
    assert terminal.dirty == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("output", "name"),
    [
        ("\x1bP0;1q#0~-\x1b\\", "pictures"),
        ("\x1b_Ga=T;AAAA\x1b\\", "pictures"),
        ("\x1b[5mx", "blinking text"),
        ("\x1b[8mx", "hidden text"),
        ("\x1b#3x", "lines of double size"),
        ("\x1b[1'}x", "ESC['}"),
    ],
)
def test_what_is_not_drawn_is_named(output, name):
    terminal = Terminal(10, 4)
    terminal.feed(output)
    assert list(terminal.unsupported) == [name]
    assert lines(terminal)[0] in ("", "x")


def test_no_output_breaks_it_or_takes_long():
    terminal = Terminal(10, 4)
    for text in [
        "\x1b[" + "9" * 5000,
        "A\x1b[" + "9" * 5000 + "Hx",
        "\x1b[" + "9" * 5000 + "m\x1b[38:5:" + "9" * 5000 + "my",
        "\x1b]" + "x" * 100_000,
        "\x07\x1b[9999b",
        "e" + "\u0301" * 10_000,
        "\x1b[9;9;9H\x1b[7J",
    ]:
        terminal.feed(text)
    assert len(terminal.buffer) == 4
