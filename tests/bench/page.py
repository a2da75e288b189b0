"""docs/benchmarks.md and its plots, made of docs/benchmarks/*.json: python -m tests.bench.page

matplotlib draws, from the environment of the bench; the page alone needs nothing. A plot has one file for light and
dark: its ink is the reader's colour of text, which an image takes from the preference of the system.
"""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from textwrap import fill
from typing import Any

from tests.bench.turns import COLUMNS, number

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = DOCS / "benchmarks"

COLOURS = {"hmp": "#2f81f7", "qemu": "#d1571b", "instead": "#8250df", "limit": "#7d8590"}
INK = "#010203"
"""Stands in a plot for the colour of text, until the file is written."""

STYLE = "<style>svg{color:#24292f}@media (prefers-color-scheme:dark){svg{color:#d0d7de}}</style>"

CURVES = {
    "piped": ("lines on the pipe", "lines a second", "Piped lines a second, by how many there are"),
    "clients": ("clients connected", "us", "Round trip of one client, by how many are connected"),
    "inflate": ("GiB of RAM, inflated to half", "s", "Time to inflate, by size"),
}

INTRO = """# Benchmarks

`make bench` measures hmp beside three others: the real QEMU 7.2, what a user would take instead, and a limit. It takes turns:
each turn measures every column once, and its ratios are those of that turn. The tables show the median of the turns, and
their range in parentheses. Ratios change far less than figures when the machine is busy.

* **instead**: litecli for the prompt, `svg-term` for the picture, else what projects write by hand, with canned replies:
  Python's `cmd` on a pipe, asyncio's streams and `json` on sockets (`tests/bench/others.py`), a raw client of QMP that takes
  the steps of `--attach`.
* **limit**: a program that does only what cannot be left out. Bare Python for a start and for a cast; a prompt of
  prompt_toolkit (hmp is faster, because it shows its prompt before it loads that); a server of asyncio that sends a constant,
  for round trips and memory; buffers that go round the rings and nothing else, for piped lines; `MADV_REMOVE` of the same
  pages, for inflation; asyncio's own timer for waits; for `--attach` a raw client that sets the polling interval to 0 without
  having looked at it; pyte reading the cast, for the picture.
"""

OUTRO = "## Where a goal is missed\n"


def cell(each: dict[str, float] | None) -> str:
    """Return the median of a column's turns, and their range."""
    return "-" if each is None else f"{number(each['median'])} ({number(each['low'])} to {number(each['high'])})"


def goals(figure: dict[str, Any]) -> str:
    """Return what was promised, and whether it is kept."""
    names = {"": figure["unit"], **{name: f"of {text}" for name, text in COLUMNS.items()}}
    return "; ".join(
        f"{each['goal']} {names[each['against']]}: {'kept' if each['met'] else '**missed**'}"
        for each in figure["goals"]
    )


def text(results: dict[str, Any], reasons: dict[str, str], history: list[dict[str, Any]]) -> str:
    """Return the page. `reasons` says by figure why a goal is missed; one without a reason says so."""
    run, figures = results["run"], results["figures"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items() if version)
    lines = [INTRO, f"`make bench` on {run['date']}, commit {run['commit']}, {run['rounds']} turns."]
    lines[-1] += f"\nMachine: {run['machine']}; load {run['load'][0]} at the start.\n{versions}.\n"
    lines.append("![hmp beside QEMU, by figure](benchmarks/ratios.svg)\n")
    lines.append("| what | unit | hmp | QEMU | instead | limit | goal |")
    lines.append("|---|---|---|---|---|---|---|")
    lines += [
        f"| {figure['what']} | {figure['unit']} | {' | '.join(cell(figure['columns'].get(column)) for column in COLUMNS)} | {goals(figure)} |"
        for figure in figures
    ]
    lines.append("\n## Ratios\n\nhmp's figure divided by the column's, turn by turn.\n")
    lines.append("| what | of QEMU | of instead | of the limit |\n|---|---|---|---|")
    lines += [
        f"| {figure['what']} | {' | '.join(cell(figure['ratios'].get(column)) for column in COLUMNS if column != 'hmp')} |"
        for figure in figures
        if figure["ratios"]
    ]
    lines.append("\n## Growth\n")
    lines += [f"![{title}](benchmarks/{name}.svg)\n" for name, (_, _, title) in CURVES.items()]
    if len(history) > 1:
        lines.append("## History\n\nRatios of earlier runs, from `benchmarks/history.json`.\n")
        lines.append("![Ratios of the runs so far](benchmarks/history.svg)\n")
    missed = [figure for figure in figures if not all(each["met"] for each in figure["goals"])]
    lines.append(OUTRO)
    if not missed:
        lines.append("None is.")
    for figure in missed:
        why = f"* {figure['what']}: {reasons.get(figure['name'], 'not explained yet')}"
        lines.append(fill(why, 120, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False))
    return "\n".join(lines) + "\n"


def svg(figure: Any) -> str:
    """Return a plot as one file for light and dark, the same bytes for the same figures."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "hmp"
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}, bbox_inches="tight"
    )
    drawn = buffer.getvalue().replace(INK, "currentColor")
    drawn = re.sub(r"[ \t]+$", "", drawn, flags=re.MULTILINE)
    at = drawn.index(">", drawn.index("<svg")) + 1
    return drawn[:at] + STYLE + drawn[at:]


def plots(results: dict[str, Any], history: list[dict[str, Any]]) -> dict[str, str]:
    """Return the drawings by name."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    ink = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "axes.titlecolor")
    plt.rcParams.update(
        {**dict.fromkeys(ink, INK), "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11}
    )
    drawn = {}
    figures = [figure for figure in results["figures"] if "qemu" in figure["ratios"]]
    made, axes = plt.subplots(figsize=(8, 0.32 * len(figures) + 1))
    for row, figure in enumerate(reversed(figures)):
        each = figure["ratios"]["qemu"]
        bounds = [[each["median"] - each["low"]], [each["high"] - each["median"]]]
        axes.barh(row, each["median"], xerr=bounds, color=COLOURS["hmp"], ecolor=INK, height=0.6)
        for goal in figure["goals"]:
            if goal["against"] == "qemu":
                axes.plot(
                    [float(goal["goal"].split()[-1])] * 2, [row - 0.42, row + 0.42], color=COLOURS["qemu"], linewidth=3
                )
    axes.set_yticks(range(len(figures)), [figure["what"].replace("`", "") for figure in reversed(figures)])
    axes.set_xscale("log")
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_title("hmp's share of QEMU's figure; orange: the goal")
    drawn["ratios"] = svg(made)
    plt.close(made)
    for name, (x, y, title) in CURVES.items():
        points = [figure for figure in results["figures"] if figure.get("plot", [""])[0] == name]
        made, axes = plt.subplots(figsize=(7, 3.6))
        for column, colour in COLOURS.items():
            of = [(figure["plot"][1], figure["columns"][column]) for figure in points if column in figure["columns"]]
            if of:
                xs, values = [point for point, _ in of], [each for _, each in of]
                axes.plot(xs, [each["median"] for each in values], color=colour, marker="o", label=COLUMNS[column])
                axes.fill_between(
                    xs, [each["low"] for each in values], [each["high"] for each in values], color=colour, alpha=0.25
                )
        _finish(axes, x, y, title)
        drawn[name] = svg(made)
        plt.close(made)
    if len(history) == 1:  # no line goes through one point
        return drawn
    made, axes = plt.subplots(figsize=(7, 3.6))
    whats = {figure["name"]: figure["what"].replace("`", "") for figure in results["figures"]}
    for name in ("start", "prompt", "piped-5", "trip-hmp-seed", "trip-qmp-qemu"):
        of = [(at, run) for at, run in enumerate(history) if "qemu" in run["ratios"].get(name, {})]
        values = [run["ratios"][name]["qemu"] for _, run in of]
        (drawn_line,) = axes.plot([at for at, _ in of], values, label=whats.get(name, name))
        for (at, run), value in zip(of, values, strict=True):  # a quick run is a hollow point
            colour = drawn_line.get_color()
            axes.plot(at, value, marker="o", color=colour, markerfacecolor="none" if run["quick"] else colour)
    axes.set_xticks(range(len(history)), [run["commit"] or run["date"] for run in history], rotation=60)
    _finish(axes, "commit", "hmp : QEMU", "Ratios of the runs so far (hollow: quick)", "linear")
    drawn["history"] = svg(made)
    plt.close(made)
    return drawn


def _finish(axes: Any, x: str, y: str, title: str, scale: str = "log") -> None:
    axes.set_xscale(scale)
    axes.set_yscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title)
    axes.grid(visible=True, color=INK, alpha=0.15)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)


def read(name: str) -> Any:
    """Return a file of the folder as what it holds."""
    path = FOLDER / name
    return json.loads(path.read_text()) if path.exists() else {}


def main() -> int:
    """Write the page and its plots."""
    results = read("results.json")
    history = read("history.json") or []
    (DOCS / "benchmarks.md").write_text(text(results, read("reasons.json"), history))
    for name, drawing in plots(results, history).items():
        (FOLDER / f"{name}.svg").write_text(drawing)
    return 0


if __name__ == "__main__":
    sys.exit(main())
