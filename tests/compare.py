"""Run seeded random scripts through two programs and compare what comes out: python -m tests.compare OLD NEW.

OLD and NEW are hmp programs; stdout, stderr and exit status must be the same bytes. Prints each script that differs.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from difflib import unified_diff
from random import Random

from tests.support.scripts import options, script

LIMIT = 120.0
"""Seconds that one run may take."""


_SIZES = re.compile(r"(?m)^(--        \w+) +[0-9.]+ [KMG]iB")
"""The sizes of snapshots in a list of them: a member more of the state shows there."""


def run(program: str, arguments: list[str], lines: str) -> tuple[str, str, int]:
    """Return stdout, stderr and exit status of a run in an empty directory."""
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [program, *arguments], input=lines.encode(), capture_output=True, timeout=LIMIT, cwd=directory, check=False
        )
    return (
        _SIZES.sub(r"\1 ?", done.stdout.decode(errors="replace")),
        done.stderr.decode(errors="replace"),
        done.returncode,
    )


def main(arguments: list[str] | None = None) -> int:
    """Compare; returns 1 if anything differed."""
    parser = argparse.ArgumentParser(prog="python -m tests.compare", description=__doc__)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--count", type=int, default=100, help="scripts to run")
    parser.add_argument("--seed", type=int, default=1, help="of the first; each script has the next one")
    parser.add_argument("--lines", type=int, default=20, help="of each script")
    parser.add_argument("--most", type=int, default=5, help="differences after which to give up")
    given = parser.parse_args(arguments)
    differ = 0
    for seed in range(given.seed, given.seed + given.count):
        dice = Random(seed)
        chosen, lines = options(dice), script(dice, given.lines)
        old, new = (run(program, chosen, lines) for program in (given.old, given.new))
        if old != new:
            differ += 1
            print(f"seed {seed}: {' '.join(chosen)}; exit status {old[2]} and {new[2]}\n{lines}")
            for which in (0, 1):
                print("\n".join(unified_diff(old[which].split("\n"), new[which].split("\n"), lineterm="")))
            if differ >= given.most:
                break
        if (seed - given.seed) % 500 == 499:
            print(f"{seed - given.seed + 1} scripts, {differ} differ", flush=True)
    print(f"{seed - given.seed + 1} scripts from seed {given.seed} on, {differ} differ")
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main())
