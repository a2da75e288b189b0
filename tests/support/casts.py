"""Runs of hmp that make casts, and casts read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyte

from tests.support.timing import PATIENCE

ROOT = Path(__file__).parents[2]
DEMOS = ROOT / "docs" / "demos"


def environment(**more: str) -> dict[str, str]:
    """Return an environment without variables that would colour or slow a run."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "VIRTUAL_ENV")}
    return {**kept, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", **more}


def run(module: str, *args: object, stdin: str = "", **options: object) -> subprocess.CompletedProcess[str]:
    """Run a module as a program."""
    command = [sys.executable, "-m", module, *map(str, args)]
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=PATIENCE,
        check=False,
        **options,
    )


def hmp(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run hmp."""
    return run("hmp", *args, **options)


def record(script: Path, cast: Path, *args: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Record a script."""
    return hmp("--clock", "warp", *args, "--record", cast, script, **options)


def read(cast: Path) -> tuple[dict[str, object], list[tuple[float, str, str]]]:
    """Return the header and the events; fails unless every line is whole and in order of time."""
    text = cast.read_text()
    assert text.endswith("\n")
    header, *events = [json.loads(line) for line in text.splitlines()]
    assert header["version"] == 2
    times = [at for at, _, _ in events]
    assert times == sorted(times)
    return header, [(at, kind, data) for at, kind, data in events]


def screen(cast: Path, at: float = float("inf")) -> list[str]:
    """Return what a terminal shows at a time: lines without blanks at their ends, to the last that is not empty."""
    header, events = read(cast)
    shown = pyte.Screen(header["width"], header["height"])
    stream = pyte.Stream(shown)
    for when, kind, data in events:
        if kind == "o" and when <= at:
            stream.feed(data)
    return "\n".join(line.rstrip() for line in shown.display).rstrip().split("\n")


def session(cast: Path, at: float = float("inf")) -> list[str]:
    """The same without the toolbar, which is in the last row while there is a prompt."""
    lines = screen(cast, at)
    if len(lines) == read(cast)[0]["height"] and lines[-1].startswith(" "):
        lines[-1] = ""
    return "\n".join(lines).rstrip().split("\n")


def output(cast: Path) -> str:
    """Return all that was printed."""
    return "".join(data for _, kind, data in read(cast)[1] if kind == "o")
