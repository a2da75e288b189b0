"""An attached machine has everything that front ends use of a machine. Without this test only a user would notice."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.shell import ROOT
from tests.support.vms import Pair

FRONTS = sorted(
    path.relative_to(ROOT)
    for pattern in ("hmp/pipe.py", "hmp/drive.py", "hmp/aiolines.py", "hmp/terminal/*.py", "hmp/sockets/*.py",
                    "hmp/qmp/events.py", "hmp/monitor/commands/chart.py")
    for path in ROOT.glob(pattern)
)  # fmt: skip

NEVER_ASKED = {"hmp/sockets/fleet.py"}
"""Front ends of machines that are simulated in any case."""

SIMULATED_ONLY = {"deliver"}
"""query-balloon of the seed's dialect asks for it; on an attached machine that command is QEMU's."""


def asked(path: Path) -> Iterator[str]:
    """The attributes of what a module calls a machine."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            if name in ("machine", "_machine"):
                yield node.attr


@pytest.mark.parametrize("path", [path for path in FRONTS if str(path) not in NEVER_ASKED], ids=str)
def test_an_attached_machine_has_what_front_ends_ask_of_one(path: Path, tmp_path: Path) -> None:
    pair = Pair(tmp_path / "q")
    missing = {name for name in asked(path) if not hasattr(pair.machine, name)} - SIMULATED_ONLY
    pair.close()
    assert missing == set()
