"""The core's fast tests where "Try it here" runs it: in Pyodide, under node. tests/wasm/plugin.py has what is left out."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.support.shell import ROOT


@pytest.mark.slow
@pytest.mark.external
@pytest.mark.timeout(900)
def test_the_core_s_tests_pass_in_webassembly() -> None:
    if shutil.which("node") is None or not all(
        (ROOT / ".npm" / each).exists() for each in ("python/.installed", "node_modules/pyodide")
    ):
        pytest.skip("needs node, npm's packages and pytest in Python alone: make wasm")
    ended = subprocess.run(["make", "--silent", "wasm"], cwd=ROOT, capture_output=True, text=True, timeout=880)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    passed = re.search(r"(\d+) passed", ended.stdout)
    assert passed is not None
    assert int(passed[1]) > 1000
