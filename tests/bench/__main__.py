"""`make bench`: measure everything, keep what was found, and make the page of it.

Exit status 3 if a goal is missed; of a --quick run, if it is missed by more than twice. make forgives it a full run, whose
page says what is missed and why; 1 is a failure of the bench itself.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hmp import __version__
from tests.bench import attached, casts, many, pipe, sockets, start
from tests.bench.programs import QEMU
from tests.bench.turns import Bench

GROUPS: dict[str, Callable[[Bench], None]] = {
    "start": start.measure,
    "pipe": pipe.measure,
    "sockets": sockets.round_trips,
    "crowd": sockets.crowd,
    "timer": sockets.waiting,
    "many": many.measure,
    "attached": attached.measure,
    "casts": casts.measure,
}
"""What can be measured, in the order of the page."""

FOLDER = Path(__file__).parents[2] / "docs/benchmarks"
RESULTS = FOLDER / "results.json"
HISTORY = FOLDER / "history.json"


def version(*command: str) -> str:
    """Return the version in what a program prints, or nothing."""
    found = re.search(r"\d+(\.\d+)+", first_line(*command))
    return found[0] if found else ""


def first_line(*command: str) -> str:
    """Return the first line that a program prints, or nothing."""
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return text.partition("\n")[0].strip()


def processor() -> str:
    """Return what the processor calls itself."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def about(options: argparse.Namespace) -> dict[str, object]:
    """Return when, where and of what this run is."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "commit": first_line("git", "rev-parse", "--short", "HEAD"),
        "quick": options.quick,
        "rounds": options.rounds,
        "machine": f"{processor()}, {os.cpu_count()} processors, Linux {platform.release()}",
        "versions": {
            "hmp": __version__,
            "Python": platform.python_version(),
            "QEMU": version(QEMU, "--version"),
            "litecli": version(start.LITECLI, "--version"),
        },
        "load": [round(each, 2) for each in os.getloadavg()],
    }


def keep_history(run: dict[str, Any], figures: list[dict[str, Any]]) -> None:
    """Add the ratios of a run to the history."""
    past = json.loads(HISTORY.read_text()) if HISTORY.exists() else []
    ratios = {
        figure["name"]: {column: round(each["median"], 3) for column, each in figure["ratios"].items()}
        for figure in figures
        if figure["ratios"]
    }
    past.append({"date": run["date"], "commit": run["commit"], "quick": run["quick"], "ratios": ratios})
    HISTORY.write_text("[\n" + ",\n".join(json.dumps(each) for each in past) + "\n]\n")


def main() -> int:
    """Measure; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="turns per figure (7)")
    parser.add_argument("--quick", action="store_true", help="two turns, fewer figures, goals with twice the room")
    parser.add_argument("--keep", action="store_true", help="write what was found to docs/benchmarks")
    parser.add_argument("only", nargs="*", choices=[[], *GROUPS], help="what to measure (all)")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 2
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    run = about(options)
    bench = Bench(rounds=options.rounds, quick=options.quick)
    for name, measure in GROUPS.items():
        if not options.only or name in options.only:
            measure(bench)
    if options.keep:
        FOLDER.mkdir(exist_ok=True)
        keep_history(run, bench.figures)
        if not options.quick:
            before = json.loads(RESULTS.read_text())["figures"] if options.only and RESULTS.exists() else []
            new = {figure["name"]: figure for figure in bench.figures}
            figures = [new.pop(figure["name"], figure) for figure in before] + list(new.values())
            RESULTS.write_text(json.dumps({"run": run, "figures": figures}, indent=1) + "\n")
    if bench.missed:
        print(f"missed: {', '.join(dict.fromkeys(bench.missed))}")
    return 3 if bench.missed else 0


if __name__ == "__main__":
    sys.exit(main())
