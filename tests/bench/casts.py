"""Recordings: a minute of a session made, and its picture."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path

from tests.bench.programs import HMP, PYTHON, folder, script, seconds
from tests.bench.turns import Bench, Goal

SVG_TERM = ".bench/node_modules/.bin/svg-term"

STORY = "".join(f"info balloon\nballoon {size}\nsim sleep 1\n" for size in (512, 768, 1024))
STORY += "sim hang\ninfo balloon\n" * 4
"""It takes a minute of the warp clock, a third of it waits with their countdown."""

DRAWN = """
import json, pyte, sys
screen = pyte.Screen(80, 24)
stream = pyte.Stream(screen)
for line in open(sys.argv[1]).read().splitlines()[1:]:
    stream.feed(json.loads(line)[2])
"""
"""The limit of a picture: pyte reads the cast, and nothing is drawn."""


def measure(bench: Bench) -> None:
    """The cast and its picture, beside what draws casts otherwise."""
    with folder() as directory:
        story, cast, picture = (f"{directory}/story.{kind}" for kind in ("hmp", "cast", "svg"))
        Path(story).write_text(STORY)
        record = [*HMP, "--clock", "warp", "--overwrite", "--record", cast, story]
        bench.figure(
            "cast",
            "a cast of a minute made",
            "s",
            {"hmp": partial(seconds, record), "limit": partial(seconds, [*PYTHON, "-c", "pass"])},
            Goal("", most=0.3),
        )
        shown = json.loads(Path(cast).read_text().splitlines()[-1])[0]
        print(f"{'':56} ({shown:.0f} s of it)")
        other = os.path.abspath(SVG_TERM)
        bench.figure(
            "picture",
            "its picture made",
            "s",
            {
                "hmp": partial(seconds, [script("hmp-cast2svg"), "--overwrite", cast, picture]),
                "instead": partial(seconds, [other, "--in", cast, "--out", f"{picture}2"])
                if os.path.exists(other) and shutil.which("node")
                else None,
                "limit": partial(seconds, [*PYTHON, "-c", DRAWN, cast]),
            },
            Goal("", most=0.5),
        )
