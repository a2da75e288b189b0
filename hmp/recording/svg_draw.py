"""A playback drawn as an SVG: text in the reader's own fixed-width font, moved by CSS animations alone.

Each line of the session is a slit behind which a strip with its versions steps up and down; a window steps over the
lines as the screen scrolls. Without animations, because the reader wants none or the viewer knows none, all stand
where the session ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TypeVar
from xml.sax.saxutils import escape

from hmp.recording.svg_screen import Cursor, Playback, Row, Run

Value = TypeVar("Value")

CELL, LINE = 9, 20
"""Width and height of a character, in units of the picture."""

BASE, BAR, MARGIN = 15, 32, 14
"""Baseline of a line, height of the bar with the title, space around the text."""

SIZE = 15
BLOCKS = "▁▂▃▄▅▆▇█"
FONTS = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"

_PALETTE = {
    # name: (class, light, dark)
    "foreground": ("f", "#24292f", "#d8dee6"),
    "background": ("b", "#fcfcfb", "#15191f"),
    "bar": ("t", "#eceef0", "#232a33"),
    "edge": ("e", "#d0d7de", "#3a434f"),
    "quiet": ("q", "#57606a", "#9aa4b0"),
    "black": ("k", "#24292f", "#6e7681"),
    "red": ("r", "#b42318", "#ff8a80"),
    "green": ("g", "#1a7f37", "#7ee787"),
    "brown": ("y", "#8f5600", "#f0c674"),
    "blue": ("u", "#0550ae", "#79c0ff"),
    "magenta": ("m", "#8250df", "#d2a8ff"),
    "cyan": ("c", "#0f6a84", "#7fdbe8"),
    "white": ("w", "#57606a", "#d8dee6"),
    "brightblack": ("K", "#656d76", "#929dab"),
    "brightred": ("R", "#cf222e", "#ffa198"),
    "brightgreen": ("G", "#116329", "#a5f3b0"),
    "brightbrown": ("Y", "#7d4e00", "#ffe08a"),
    "brightblue": ("U", "#0969da", "#a5d6ff"),
    "brightmagenta": ("M", "#6639ba", "#e2c5ff"),
    "brightcyan": ("C", "#0b5567", "#b3f0ff"),
    "brightwhite": ("W", "#24292f", "#ffffff"),
}


class Picture:
    """Collects the parts of one SVG."""

    def __init__(self, playback: Playback, *, length: int, animate: bool) -> None:
        self._playback = playback
        self._length = max(length, 1)
        self._animate = animate
        self._used = {"foreground", "background", "bar", "edge", "quiet"}
        self._steps: dict[str, str] = {}
        self._styles: set[str] = set()

    def draw(self, title: str, description: str, chapters: Sequence[tuple[int, str]]) -> str:
        """Return the picture. `chapters` are (ms, text): the bar shows the one that is on."""
        playback = self._playback
        inner, height = playback.columns * CELL, playback.rows * LINE
        width, total = inner + 2 * MARGIN, height + BAR + 2 * MARGIN
        window = f'<svg x="{MARGIN}" y="{BAR + MARGIN}" width="{inner}" height="{height}">{self._window()}</svg>'
        bar = self._bar(width, title, chapters)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}" '
            f'role="img" aria-labelledby="title desc" xml:space="preserve">\n'
            f'<title id="title">{escape(title)}</title>\n<desc id="desc">{escape(description)}</desc>\n'
            f"<style>\n{self._css()}</style>\n"
            f'<rect class="b" x=".5" y=".5" width="{width - 1}" height="{total - 1}" rx="8"/>\n'
            f"{bar}\n{window}\n"
            f'<rect x=".5" y=".5" width="{width - 1}" height="{total - 1}" rx="8" fill="none" stroke="var(--e)"/>\n'
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
        # The cursor lies below: the first letter of a countdown can be read on it.
        return self._moved(playback.top, lambda top: (0, -top * LINE), f"{cursor}\n{lines}")

    def _line(self, number: int, versions: Sequence[tuple[int, Row]]) -> str:
        """Return the slit of a line with what is behind it."""
        if not self._animate:
            top = self._playback.top[-1][1]
            versions = versions[-1:] if top <= number < top + self._playback.rows else []
        rows: list[Row] = []
        for _, row in versions:
            if row and row not in rows:
                rows.append(row)
        if not rows:
            return ""
        strip = "".join([self._row(row, at * LINE) for at, row in enumerate(rows)])
        moved = self._moved(
            [(at, rows.index(row) if row else -1) for at, row in versions], lambda at: (0, -at * LINE), strip
        )
        return f'<svg y="{number * LINE}" width="{self._playback.columns * CELL}" height="{LINE}">{moved}</svg>\n'

    def _row(self, row: Row, y: int) -> str:
        parts = []
        for run in row:
            if run.style.bg != "default":
                fill = self._fill(run.style.bg)
                parts.append(f'<rect{fill} x="{run.x * CELL}" y="{y}" width="{run.cells * CELL}" height="{LINE}"/>')
        for run in row:
            for piece in _pieces(run):
                parts.append(self._block(piece, y) if piece.text[0] in BLOCKS else self._text(piece, y + BASE))
        return "".join(parts)

    def _block(self, run: Run, y: int) -> str:
        """Draw bars as what they are: those of a font leave gaps between the lines."""
        height = LINE * (BLOCKS.index(run.text[0]) + 1) // len(BLOCKS)
        fill = self._fill(run.style.fg if run.style.fg != "default" else "foreground")
        return f'<rect{fill} x="{run.x * CELL}" y="{y + LINE - height}" width="{run.cells * CELL}" height="{height}"/>'

    def _text(self, run: Run, y: int) -> str:
        style = run.style
        classes = [
            name
            for name, on in (("B", style.bold), ("I", style.italic), ("L", style.underline), ("S", style.strike))
            if on
        ]
        self._styles.update(classes)
        # The length that the text shall have keeps columns in line whatever font the reader has.
        fill = self._fill(style.fg if style.fg != "default" else "", classes)
        return f'<text{fill} x="{run.x * CELL}" y="{y}" textLength="{run.cells * CELL}">{escape(run.text)}</text>'

    def _fill(self, color: str, classes: Sequence[str] = ()) -> str:
        """Return the attributes that give something its colour."""
        names = list(classes)
        style = ""
        if color in _PALETTE:
            self._used.add(color)
            names.append(_PALETTE[color][0])
        elif color.replace("bf", "br") in _PALETTE:  # pyte spells one of its colours wrong
            return self._fill(color.replace("bf", "br"), classes)
        elif len(color) == 6:
            style = f' style="fill:#{color}"'
        return (f' class="{" ".join(names)}"' if names else "") + style

    # Movement.

    def _moved(
        self, track: Sequence[tuple[int, Value]], place: Callable[[Value], tuple[int, int]], content: str
    ) -> str:
        """Return content that stands at `place` of each value in its time, and of the last one without animations."""
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
        light = ";".join([f"--{name}:{color}" for name, color, _ in used])
        dark = ";".join([f"--{name}:{color}" for name, _, color in used])
        rules = [
            f":root{{color-scheme:light dark;{light}}}",
            f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}",
            f"text{{font:{SIZE}px {FONTS};fill:var(--f);white-space:pre}}",
        ]
        rules += [f".{name}{{fill:var(--{name})}}" for name, _, _ in used]
        styles = {
            "B": "font-weight:bold",
            "I": "font-style:italic",
            "L": "text-decoration:underline",
            "S": "text-decoration:line-through",
        }
        rules += [f".{name}{{{rule}}}" for name, rule in styles.items() if name in self._styles]
        if self._steps:
            seconds = f"{self._length / 1000:g}s"
            rules.append(f"@media (prefers-reduced-motion:no-preference){{g{{animation:{seconds} step-end infinite}}}}")
            rules += [f"@keyframes {name}{{{css}}}" for css, name in self._steps.items()]
        return "\n".join(rules) + "\n"


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
