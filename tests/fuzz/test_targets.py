"""The fuzz targets on their seeds, on what was found with them, and on a few random inputs: without atheris."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import once
from tests.fuzz.__main__ import NAMES
from tests.fuzz.targets import TARGETS

FOUND: dict[str, tuple[bytes, ...]] = dict.fromkeys(TARGETS, ())
"""Inputs that once broke something, by target."""


def test_every_target_has_its_name_where_it_is_started() -> None:
    assert tuple(TARGETS) == NAMES


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_findings_and_a_few_random_inputs(name: str) -> None:
    target = TARGETS[name]
    longest = target.longest
    dice = random.Random(name)
    inputs = [*target.seeds(), *FOUND[name], b"", b"\0"]
    for data in tuple(inputs):
        for _ in range(20):
            spoiled = bytearray(data[:longest])
            for _ in range(dice.randrange(8)):
                if spoiled:
                    spoiled[dice.randrange(len(spoiled))] = dice.randrange(256)
            inputs.append(bytes(spoiled))
            if target.mutate is not None:
                inputs.append(target.mutate(data, 1 << 16, dice.randrange(1 << 32)))
    inputs += [dice.randbytes(dice.randrange(longest // 4)) for _ in range(50)]
    for data in inputs:
        target.function(data)


TELLING = """
from tests.fuzz import once
class Atheris:
    told = []
    _reserve_counter = staticmethod(lambda: 7)
    _trace_branch = staticmethod(told.append)
once.watch(Atheris, (sys.argv[1],))
from device.units import parse_size
counts = []
for text in ("1", "1", "2", "1.5G", "1.5G"):
    before = len(Atheris.told)
    parse_size(text)
    counts.append(len(Atheris.told) - before)
print(*(count > 0 for count in counts), len(set(Atheris.told)) == len(Atheris.told))
"""


@pytest.mark.skipif(not once.available(), reason="sys.monitoring came with Python 3.12")
def test_a_new_finding_is_reported_once() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", f"import sys{TELLING}", f"{root}/device/"]
    told = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["True", "False", "False", "True", "False", "True"]
