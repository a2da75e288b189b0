"""What `import device` gives: all names that are listed, imported when used, and nothing else."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import device

SOURCE = Path(device.__file__)


@pytest.mark.parametrize("name", device.__all__)
def test_a_public_name_is_there_and_listed(name: str) -> None:
    value = getattr(device, name)
    assert getattr(device, name) is value
    assert name in dir(device)


def test_type_checkers_know_the_same_names() -> None:
    guarded = next(node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If))
    imports = [node for node in guarded.body if isinstance(node, ast.ImportFrom)]
    typed = {alias.asname or alias.name: (node.module, alias.name) for node in imports for alias in node.names}
    assert sorted(typed) == sorted(device.__all__)
    for name, (module, inner) in typed.items():
        assert module is not None
        assert getattr(sys.modules[module], inner) is getattr(device, name), name


def test_other_names_are_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match=r"^module 'device' has no attribute 'Nothing'$"):
        device.Nothing  # noqa: B018


def test_a_name_brings_what_it_needs_and_no_more() -> None:
    code = "import sys, device; print(*sorted(n for n in sys.modules if n.startswith('device')));"
    code += "device.Clock; print('device.machine.machine' in sys.modules, 'device.clock' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=SOURCE.parents[1]
    )
    assert run.stdout.splitlines() == ["device", "False True"], run.stderr


def test_the_tour_uses_every_name() -> None:
    words = set(re.findall(r"\w+", device.__doc__ or ""))
    assert [name for name in device.__all__ if not {name, f"{name}s"} & words] == []


def test_states_are_declared_with_the_words_that_they_have() -> None:
    assert set(get_args(device.RunState)) == {device.RUNNING, device.PAUSED, device.PRELAUNCH, device.SHUTDOWN}
    assert set(get_args(device.RequestState)) == {
        device.PENDING, device.ANSWERED, device.TIMED_OUT, device.UNSUPPORTED, device.NO_DEVICE, device.CANCELLED
    }  # fmt: skip
