"""Measuring in turns, and what was promised of the ratios.

Each turn measures every column once, one behind the other: whatever else the computer does hits all of them. A ratio is
taken within a turn; its median and its range over the turns are what is reported, for they move far less than figures.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

COLUMNS = {
    "hmp": "hmp",
    "qemu": "QEMU 7.2",
    "instead": "instead",
    "limit": "limit",
}
"""What is measured in a turn: hmp, the real QEMU, what a user would take instead, and a program that does the least."""

SLACK = 2.0
"""By how much a quick run may miss a goal that is a ratio: it is to tell a clear regression, not a busy machine."""

TRIES = 3
"""How often a quick run measures a figure that misses by more than that, before it counts."""

Measure = Callable[[], float]


class Goal:
    """What is promised of a figure: hmp's share of another column (or of its unit, if `against` is empty)."""

    def __init__(self, against: str, *, most: float = 0.0, least: float = 0.0) -> None:
        self.against = against
        self.most = most
        self.least = least

    def met(self, value: float, slack: float = 1.0) -> bool:
        """Return whether `value` keeps the promise, or misses it by no more than the factor `slack`."""
        return value <= self.most * slack if self.most else value >= self.least / slack

    def __str__(self) -> str:
        return f"at most {self.most:g}" if self.most else f"at least {self.least:g}"


def spread(values: list[float]) -> dict[str, float]:
    """Return the median and the range of some values."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def in_turns(rounds: int, measures: Mapping[str, Measure]) -> dict[str, list[float]]:
    """Return `rounds` measurements of each, taken in turns behind one that only warms caches."""
    for measure in measures.values():
        measure()
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return found


def _ratios(found: Mapping[str, list[float]], column: str) -> list[float]:
    return [ours / theirs for ours, theirs in zip(found["hmp"], found[column], strict=True)]


def _value(goal: Goal, found: Mapping[str, list[float]]) -> float:
    return statistics.median(_ratios(found, goal.against) if goal.against else found["hmp"])


class Bench:
    """One run: how many turns, what it found, what it says meanwhile."""

    def __init__(self, *, rounds: int, quick: bool = False) -> None:
        self.rounds = rounds
        self.quick = quick
        self.figures: list[dict[str, Any]] = []
        self.missed: list[str] = []
        """Names of the figures that missed a goal; of a quick run, by more than its slack."""

    def turns(self, share: float = 1.0) -> int:
        """Return how many turns a figure gets that takes so much more or less time than others."""
        return max(2 if self.quick else 3, round(self.rounds * share))

    def figure(
        self,
        name: str,
        what: str,
        unit: str,
        measures: Mapping[str, Measure | None],
        *goals: Goal,
        share: float = 1.0,
        plot: tuple[str, float] | None = None,
    ) -> None:
        """Measure one figure and note it.

        `what` is for people, `unit` that of all columns; a column without a measure is empty. `plot` names the curve
        that the figure is a point of, and where on its x axis.
        """
        there = {column: measure for column, measure in measures.items() if measure}
        for tries in range(TRIES if self.quick else 1, 0, -1):
            found = in_turns(self.turns(share), there)
            if tries == 1 or not any(self._misses(goal, found) for goal in goals):
                self.note(name, what, unit, found, *goals, plot=plot)
                return

    def _misses(self, goal: Goal, found: Mapping[str, list[float]]) -> bool:
        """Return whether a goal is missed so that this run fails. Seconds of a busy machine say nothing: ratios do."""
        if (self.quick and not goal.against) or (goal.against and goal.against not in found):
            return False
        return not goal.met(_value(goal, found), SLACK if self.quick else 1.0)

    def note(
        self,
        name: str,
        what: str,
        unit: str,
        found: Mapping[str, list[float]],
        *goals: Goal,
        plot: tuple[str, float] | None = None,
    ) -> None:
        """Note what was measured by column, each with a value for every turn."""
        ratios = {column: spread(_ratios(found, column)) for column in found if column != "hmp"}
        told = []
        for goal in goals:
            if goal.against and goal.against not in ratios:
                continue
            value = _value(goal, found)
            told.append({"against": goal.against, "goal": str(goal), "value": value, "met": goal.met(value)})
            if self._misses(goal, found):
                self.missed.append(name)
        figure = {
            "name": name,
            "what": what,
            "unit": unit,
            "columns": {column: spread(values) for column, values in found.items()},
            "ratios": ratios,
            "goals": told,
        }
        if plot:
            figure["plot"] = list(plot)
        self.figures.append(figure)
        print(line(figure), flush=True)


def number(value: float) -> str:
    """Return a figure with three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def line(figure: Mapping[str, Any]) -> str:
    """Return one figure as a line of text."""
    columns = "  ".join(f"{COLUMNS[name]} {number(each['median'])}" for name, each in figure["columns"].items())
    goals = "; ".join(
        f"{number(goal['value'])}{' of ' + COLUMNS[goal['against']] if goal['against'] else ''}"
        f" ({goal['goal']}: {'yes' if goal['met'] else 'NO'})"
        for goal in figure["goals"]
    )
    return f"{figure['what']:56} {columns} {figure['unit']}{'   ' + goals if goals else ''}"
