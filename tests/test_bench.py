"""What the bench makes of its measurements, and that its page is made of what it kept. `make bench` measures."""

from __future__ import annotations

import json
import shutil
import subprocess
from itertools import count
from pathlib import Path

import pytest

from tests.bench import page
from tests.bench.turns import Bench, Goal, in_turns, number
from tests.support.shell import ROOT


def test_turns_alternate_and_the_first_only_warms() -> None:
    order: list[str] = []
    clock = count()

    def measure(name: str) -> float:
        order.append(name)
        return float(next(clock))

    found = in_turns(2, {name: lambda name=name: measure(name) for name in ("hmp", "qemu")})
    assert order == ["hmp", "qemu"] * 3
    assert found == {"hmp": [2.0, 4.0], "qemu": [3.0, 5.0]}


def test_a_ratio_is_taken_within_its_turn() -> None:
    """The machine was twice as slow in the second turn: the ratio does not change."""
    bench = Bench(rounds=2)
    bench.note("x", "x", "ms", {"hmp": [1.0, 2.0], "qemu": [2.0, 4.0]}, Goal("qemu", most=0.5))
    assert bench.figures[0]["ratios"]["qemu"] == {"median": 0.5, "low": 0.5, "high": 0.5}
    assert not bench.missed


@pytest.mark.parametrize(
    ("goal", "value", "met", "roughly"),
    [
        (Goal("qemu", most=0.5), 0.5, True, True),
        (Goal("qemu", most=0.5), 0.6, False, True),
        (Goal("qemu", most=0.5), 1.1, False, False),
        (Goal("qemu", least=10), 10.0, True, True),
        (Goal("qemu", least=10), 9.0, False, True),
        (Goal("qemu", least=10), 4.0, False, False),
    ],
)
def test_a_quick_run_misses_only_what_is_clearly_slower(goal: Goal, value: float, met: bool, roughly: bool) -> None:
    for quick, kept in ((False, met), (True, roughly)):
        bench = Bench(rounds=1, quick=quick)
        bench.note("x", "x", "ms", {"hmp": [value], "qemu": [1.0]}, goal)
        assert bench.missed == ([] if kept else ["x"])
        assert bench.figures[0]["goals"][0]["met"] is met


def test_a_quick_run_measures_a_miss_again_and_does_not_judge_plain_seconds() -> None:
    figures = iter([9.0, 9.0, 9.0, 1.0, 1.0, 1.0])  # each try warms once and has two turns
    bench = Bench(rounds=2, quick=True)
    measures = {"hmp": lambda: next(figures), "qemu": lambda: 2.0}
    bench.figure("x", "x", "s", measures, Goal("qemu", most=0.5), Goal("", most=0.1))
    assert not bench.missed
    assert bench.figures[0]["columns"]["hmp"]["median"] == 1.0
    with pytest.raises(StopIteration):
        next(figures)


def test_a_goal_against_what_is_not_installed_is_not_judged() -> None:
    bench = Bench(rounds=1)
    bench.note("x", "x", "ms", {"hmp": [9.0]}, Goal("qemu", most=0.5), Goal("", most=10))
    assert [goal["against"] for goal in bench.figures[0]["goals"]] == [""]
    assert not bench.missed


def test_numbers_are_rounded_to_three_digits() -> None:
    assert [number(each) for each in (0.00123, 4.567, 99.9, 123456.0)] == ["0.00123", "4.57", "99.9", "123,456"]


def test_the_page_is_made_of_what_was_measured() -> None:
    """Mend: `.bench/bin/python -m tests.bench.page` (`make bench` does it)."""
    made = page.text(page.read("results.json"), page.read("reasons.json"), page.read("history.json"))
    assert (page.DOCS / "benchmarks.md").read_text() == made
    assert "not explained yet" not in made


def test_each_plot_is_there_and_follows_the_reader_s_light_or_dark() -> None:
    history = ["history"] if len(page.read("history.json")) > 1 else []
    assert (page.FOLDER / "history.svg").exists() == bool(history)
    for name in (*page.CURVES, "ratios", *history):
        drawing = (page.FOLDER / f"{name}.svg").read_text()
        assert page.STYLE in drawing
        assert page.INK not in drawing
        assert "currentColor" in drawing


def test_each_run_is_in_the_history() -> None:
    run = page.read("results.json")["run"]
    history = json.loads((page.FOLDER / "history.json").read_text())
    assert (run["date"], run["commit"]) in [(each["date"], each["commit"]) for each in history]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("status", "full", "quick"),
    [(0, True, True), (1, False, False), (3, True, False)],
    ids=["all kept", "the program fails", "a goal is missed"],
)
def test_make_bench_fails_with_its_program_and_forgives_a_missed_goal_only_in_a_full_run(
    status: int, full: bool, quick: bool, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").touch()
    for folder, exits in ((".venv", status), (".bench", 0)):
        (tmp_path / folder / "bin").mkdir(parents=True)
        python = tmp_path / folder / "bin/python"
        python.write_text(f"#!/bin/sh\necho $0 $*\nexit {exits}\n")
        python.chmod(0o755)
        (tmp_path / folder / ".installed").touch()
    for words, good in (([], full), (["QUICK=1"], quick)):
        command = ["make", "--silent", "-f", str(ROOT / "Makefile"), "bench", *words]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (ended.returncode == 0) is good, ended.stderr
        assert ("tests.bench.page" in ended.stdout) is (good and not words)
