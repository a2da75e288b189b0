"""Coverage for libFuzzer out of sys.monitoring: each line and each side of a branch is told when it is first seen.

Atheris rewrites byte code so that every branch and comparison calls it, every time: the code runs two to five times
slower. What was seen once needs no telling again for the fuzzer to notice what is new, and Python 3.12 can switch an
event off where it happened: code that was fuzzed for a while runs at nearly its own speed. What is lost are counts of
loops and the operands of comparisons; the dictionaries of the targets make up for the latter, and a run with
`--compare` uses atheris' own way on the same corpus.
"""

from __future__ import annotations

import sys
from types import CodeType
from typing import Any

COUNTERS = 1 << 14
"""Lines and sides of branches that can be told apart: several times what there is. libFuzzer looks at all each time."""


def available() -> bool:
    """Return whether this Python can do it."""
    return hasattr(sys, "monitoring")


def watch(atheris: Any, folders: tuple[str, ...]) -> None:
    """Tell libFuzzer of every new line and branch in code below `folders` from now on."""
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
    disable = monitoring.DISABLE
    first = atheris._reserve_counter()
    for _ in range(COUNTERS - 1):
        atheris._reserve_counter()
    kept: list[CodeType] = []  # whose ids are in use below: they must not be given to others
    ours: dict[int, bool] = {}
    sides: dict[tuple[int, int], int] = {}
    count = 0

    def tell() -> None:
        nonlocal count
        atheris._trace_branch(first + count % COUNTERS)  # looked up each time: Setup() puts another in its place
        count += 1

    def known(code: CodeType) -> bool:
        key = id(code)
        answer = ours.get(key)
        if answer is None:
            kept.append(code)
            answer = ours[key] = code.co_filename.startswith(folders)
        return answer

    def line(code: CodeType, number: int) -> object:
        if known(code):
            tell()
        return disable

    def branch(code: CodeType, offset: int, target: int) -> object:
        key = (id(code), offset)
        seen = sides.get(key)
        if seen == target:
            return None
        if seen is None:
            if not known(code):
                return disable
            sides[key] = target
            tell()
            return None
        tell()
        return disable  # both sides are known now

    tool = monitoring.COVERAGE_ID
    monitoring.use_tool_id(tool, "fuzz")
    events = monitoring.events
    monitoring.register_callback(tool, events.LINE, line)
    monitoring.register_callback(tool, events.BRANCH, branch)
    monitoring.set_events(tool, events.LINE | events.BRANCH)
