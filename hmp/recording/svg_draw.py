"""A playback drawn as an SVG: text in the reader's own fixed-width font, moved by CSS animations alone.

Each line of the session is a nested svg element, one line high. It clips a strip that has all versions of the line, and
an animation moves the strip in steps, so that one version shows. In the same way a window moves over the lines as the
screen scrolls. Without animations (the reader turned them off, or the viewer cannot show them) the picture shows the
end of the session.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TypeVar
from xml.sax import saxutils

from hmp.recording.svg_screen import Cursor, Playback, Row, Run

Value = TypeVar("Value")

CELL, LINE = 9, 20
"""Width and height of a character, in units of the picture."""

_APART = LINE + 4
"""The distance between two versions of a line in its strip. Without a gap the edge of the next version showed too."""

_OVER = 1
"""How far a background reaches into the next line. Without it lines showed between backgrounds in a smaller picture."""

BASE, BAR, MARGIN = 15, 32, 14
"""Baseline of a line, height of the bar with the title, space around the text."""

SIZE = 15
BLOCKS = "▁▂▃▄▅▆▇█"
FONTS = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"

_PALETTE: dict[str, tuple[str, str, str]] = {
    # name: (class, light, dark)
    "foreground": ("f", "#24292f", "#d8dee6"),
    "background": ("b", "#fcfcfb", "#15191f"),
    "bar": ("t", "#eceef0", "#232a33"),
    "edge": ("e", "#d0d7de", "#3a434f"),
    "quiet": ("q", "#57606a", "#9aa4b0"),
}
_COLORS = {
    # name: (class, light and dark as text, light and dark behind text)
    "black": ("k", "#24292f", "#9ea4ad", "#c9d1d9", "#22272e"),
    "red": ("r", "#ab2117", "#ff8a80", "#ffc1bc", "#6c1b1b"),
    "green": ("g", "#15662c", "#7ee787", "#a6e9b5", "#104123"),
    "brown": ("y", "#804d00", "#f0c674", "#f2d489", "#4a3600"),
    "blue": ("u", "#0550ae", "#79c0ff", "#b3d4ff", "#10386d"),
    "magenta": ("m", "#692ed9", "#d2a8ff", "#e0c8ff", "#452679"),
    "cyan": ("c", "#0d5f76", "#7fdbe8", "#a8e3ef", "#093d4a"),
    "white": ("w", "#515a63", "#d8dee6", "#e3e6ea", "#323942"),
    "brightblack": ("K", "#525960", "#9ba5b2", "#d3d8de", "#323942"),
    "brightred": ("R", "#ac1c26", "#ffa198", "#ffc9c4", "#68201d"),
    "brightgreen": ("G", "#116329", "#a5f3b0", "#c3f5cd", "#134024"),
    "brightbrown": ("Y", "#7d4e00", "#ffe08a", "#fbe5ac", "#473700"),
    "brightblue": ("U", "#0756b3", "#a5d6ff", "#cde4ff", "#133869"),
    "brightmagenta": ("M", "#6639ba", "#e2c5ff", "#ecdcff", "#432972"),
    "brightcyan": ("C", "#0b5567", "#b3f0ff", "#c6f1f8", "#0e3d49"),
    "brightwhite": ("W", "#24292f", "#ffffff", "#f1f3f5", "#323941"),
}
"""Text is dark and backgrounds are pale, or the other way round: every pair has a contrast of at least 4.5:1."""

_PALETTE |= {name: entry[:3] for name, entry in _COLORS.items()}
_PALETTE |= {f"on {name}": (f"o{entry[0]}", *entry[3:]) for name, entry in _COLORS.items()}

_TEXT, _EDGE = _PALETTE["foreground"][0], _PALETTE["edge"][0]

_LOOKS = {
    # attribute of a style: (class, CSS)
    "bold": ("B", "font-weight:bold"),
    "italic": ("I", "font-style:italic"),
    "underline": ("L", "text-decoration:underline"),
    "strike": ("S", "text-decoration:line-through"),
}


_NO_XML = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escape(text: str) -> str:
    """Return text for XML, without the characters that it forbids."""
    return saxutils.escape(_NO_XML.sub("\ufffd", text))


class Picture:
    """Collects the parts of one SVG."""

    def __init__(self, playback: Playback, *, length: int, animate: bool, once: bool = False) -> None:
        self._playback = playback
        self._length = max(length, 1)
        self._animate = animate
        self._count = "" if once else " infinite"
        self._used = {"foreground", "background", "bar", "edge", "quiet"}
        self._steps: dict[str, str] = {}
        self._styles: set[str] = set()

    def draw(self, title: str, description: str, chapters: Sequence[tuple[int, str]]) -> str:
        """Return the picture. `chapters` are (ms, text): the bar shows the current one."""
        playback = self._playback
        inner, height = playback.columns * CELL, playback.rows * LINE
        width, total = inner + 2 * MARGIN, height + BAR + 2 * MARGIN
        place = f'x="{MARGIN}" y="{BAR + MARGIN}" width="{inner}" height="{height}"'
        # crispEdges: if the picture is made smaller, a line would show between two backgrounds that touch.
        window = f'<svg {place} shape-rendering="crispEdges">{self._window()}</svg>'
        bar = self._bar(width, title, chapters)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}" '
            f'role="img" aria-labelledby="title desc" xml:space="preserve">\n'
            f'<title id="title">{escape(title)}</title>\n<desc id="desc">{escape(description)}</desc>\n'
            f"<style>\n{self._css()}</style>\n"
            f'<rect class="b" x=".5" y=".5" width="{width - 1}" height="{total - 1}" rx="8"/>\n'
            f"{bar}\n{window}\n"
            f'<rect x=".5" y=".5" width="{width - 1}" height="{total - 1}" rx="8" class="n"/>\n'
            "</svg>\n"
        )

    # Parts.

    def _bar(self, width: int, title: str, chapters: Sequence[tuple[int, str]]) -> str:
        shape = f"M.5 {BAR}V8.5a8 8 0 0 1 8-8H{width - 8.5}a8 8 0 0 1 8 8V{BAR}z"
        room = max(1, self._playback.columns - len(title) - 3)
        texts = [text if len(text) <= room else f"{text[: room - 1]}…" for _, text in chapters]
        shown = [(0, -1)] + [(at, number) for number, (at, _) in enumerate(chapters)]
        name = f'<text class="q" x="{MARGIN}" y="21">{escape(title)}</text>'
        strip = "".join(
            f'<text x="{width - MARGIN}" y="{number * BAR + 21}" text-anchor="end">{escape(text)}</text>'
            for number, text in enumerate(texts)
        )
        moved = self._moved(shown, lambda number: (0, -number * BAR), strip) if texts else ""
        return f'<path class="t" d="{shape}"/>{name}<svg width="{width}" height="{BAR}">{moved}</svg>'

    def _window(self) -> str:
        playback = self._playback
        lines = "".join([self._line(number, versions) for number, versions in sorted(playback.lines.items())])
        block = f'<rect class="f" width="{CELL}" height="{LINE}" opacity=".3"/>'
        cursor = self._moved(playback.cursor, _cursor_place, block)
        # The cursor is drawn below the text, so that the first letter of a countdown can be read on it.
        return self._moved(playback.top, lambda top: (0, -top * LINE), f"{cursor}\n{lines}")

    def _line(self, number: int, versions: Sequence[tuple[int, Row]]) -> str:
        """Return the element of a line, with the strip of its versions."""
        if not self._animate:
            top = self._playback.top[-1][1]
            versions = versions[-1:] if top <= number < top + self._playback.rows else []
        rows: list[Row] = []
        for _, row in versions:
            if row and row not in rows:
                rows.append(row)
        if not rows:
            return ""
        strip = "".join([self._row(row, at * _APART) for at, row in enumerate(rows)])
        moved = self._moved(
            [(at, rows.index(row) if row else -1) for at, row in versions], lambda at: (0, -at * _APART), strip
        )
        return (
            f'<svg y="{number * LINE}" width="{self._playback.columns * CELL}" height="{LINE + _OVER}">{moved}</svg>\n'
        )

    def _row(self, row: Row, y: int) -> str:
        parts = [self._rect(run, run.style.bg, y, LINE) for run in row if run.style.bg != "default"]
        for run in row:
            for piece in _pieces(run):
                parts.append(self._block(piece, y) if piece.text[0] in BLOCKS else self._text(piece, y + BASE))
        return "".join(parts)

    def _block(self, run: Run, y: int) -> str:
        """Draw a block character as a rectangle: those of a font leave gaps between the lines."""
        height = LINE * (BLOCKS.index(run.text[0]) + 1) // len(BLOCKS)
        color = run.style.fg if run.style.fg != "default" else "foreground"
        return self._rect(run, color, y + LINE - height, height)

    def _rect(self, run: Run, color: str, y: int, height: int) -> str:
        fill = self._fill(color)
        return f'<rect{fill} x="{run.x * CELL}" y="{y}" width="{run.cells * CELL}" height="{height + _OVER}"/>'

    def _text(self, run: Run, y: int) -> str:
        style = run.style
        classes = [name for look, (name, _) in _LOOKS.items() if getattr(style, look)]
        self._styles.update(classes)
        # textLength keeps the columns aligned in every font of a reader.
        fill = self._fill(style.fg if style.fg != "default" else "", classes)
        return f'<text{fill} x="{run.x * CELL}" y="{y}" textLength="{run.cells * CELL}">{escape(run.text)}</text>'

    def _fill(self, color: str, classes: Sequence[str] = ()) -> str:
        """Return the attributes that give something its colour."""
        names = list(classes)
        style = ""
        if color in _PALETTE:
            self._used.add(color)
            names.append(_PALETTE[color][0])
        elif len(color) == 6:
            style = f' style="fill:#{color}"'
        return (f' class="{" ".join(names)}"' if names else "") + style

    # Movement.

    def _moved(
        self, track: Sequence[tuple[int, Value]], place: Callable[[Value], tuple[int, int]], content: str
    ) -> str:
        """Return `content`, moved to `place(value)` at the time of each value; without animations to the last place."""
        if not content:
            return ""
        last = place(track[-1][1])
        transform = "" if last == (0, 0) else f' transform="translate({last[0]} {last[1]})"'
        if not self._animate or len(track) == 1:
            return f"<g{transform}>{content}</g>" if transform else content
        steps: dict[str, str] = {}
        for at, value in track:
            x, y = place(value)
            steps[f"{at * 100 / self._length:.2f}".rstrip("0").rstrip(".")] = f"{x}px,{y}px" if x else f"0,{y}px"
        css = "".join([f"{at}%{{transform:translate({where})}}" for at, where in steps.items()])
        name = self._steps.setdefault(css, f"k{len(self._steps)}")
        return f'<g style="animation-name:{name}"{transform}>{content}</g>'

    # Style.

    def _css(self) -> str:
        used = [entry for name, entry in _PALETTE.items() if name in self._used]
        # No CSS variables: CairoSVG, ImageMagick and others do not support them and draw black instead.
        light, dark = ["".join([_color_rule(name, shades[shade]) for name, *shades in used]) for shade in (0, 1)]
        rules = [
            f":root{{color-scheme:light dark}}text{{font:{SIZE}px monospace;white-space:pre}}.n{{fill:none}}",
            # CairoSVG would take the first of these alone, whether it exists or not; it skips @media.
            f"@media all{{text{{font-family:{FONTS}}}}}",
            light,
            f"@media (prefers-color-scheme:dark){{{dark}}}",
        ]
        rules += [f".{name}{{{rule}}}" for name, rule in _LOOKS.values() if name in self._styles]
        if self._steps:
            seconds = f"{self._length / 1000:g}s"
            rules.append(
                f"@media (prefers-reduced-motion:no-preference){{g{{animation:{seconds} step-end{self._count}}}}}"
            )
            rules += [f"@keyframes {name}{{{css}}}" for css, name in self._steps.items()]
        return "\n".join(rules) + "\n"


def _color_rule(name: str, color: str) -> str:
    if name == _EDGE:
        return f".n{{stroke:{color}}}"
    return f"{'text,' if name == _TEXT else ''}.{name}{{fill:{color}}}"


def _pieces(run: Run) -> Iterator[Run]:
    """Yield the parts of a run that are drawn alike: text, and bars of one height."""
    if run.cells != len(run.text) or not any(char in BLOCKS for char in run.text):
        if run.text.strip() or run.style.underline or run.style.strike:
            yield run
        return
    x = run.x
    for _, group in groupby(run.text, lambda char: char if char in BLOCKS else ""):
        text = "".join(group)
        if text.strip():
            yield Run(x, len(text), text, run.style)
        x += len(text)


def _cursor_place(cursor: Cursor) -> tuple[int, int]:
    return (-2 * CELL, 0) if cursor is None else (cursor[0] * CELL, cursor[1] * LINE)


def plain_text(playback: Playback) -> str:
    """Return what the screen shows at the end, without colours and blank lines."""
    top = playback.top[-1][1]
    lines = []
    for number in range(top, top + playback.rows):
        row = playback.lines.get(number, [(0, ())])[-1][1]
        line = ""
        for run in row:
            line += " " * (run.x - len(line)) + run.text
        if line:
            lines.append(line)
    return "\n".join(lines)
