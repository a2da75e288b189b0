"""Other people's programs that talk to QEMU, as they are in the package index: `python -m tests.support.clients` installs.

Each has a folder of its own in .clients/, since they do not agree on versions of what they need.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.shell import ROOT, TIMEOUT, environment

FOLDER = ROOT / ".clients"

PACKAGES = {
    "maqet": "--no-deps --ignore-requires-python maqet==0.0.15",  # only its qemu.machine is used, which Python 3.11 runs
    "avocado-vt": "avocado-framework-plugin-vt==113.0 avocado-framework==113.0 setuptools<81",
    "labgrid": "labgrid==26.0.1",
    "transient": "transient==0.25 setuptools<80",
}
"""For each client what pip is told. Versions are those in the table of docs/fake-qemu.md."""


def python(client: str, source: str, *arguments: str, under: str = "", cwd: Path | None = None) -> str:
    """Run a program that imports `client` from below its folder, with `arguments`; return what it printed."""
    folder = FOLDER / client
    if not folder.is_dir():
        pytest.skip(f"needs {client}: make clients")
    begin = f"import site, sys; sys.path.insert(0, {str(folder / under)!r}); site.addsitedir({str(folder)!r})\n"
    ended = subprocess.run([sys.executable, "-c", begin + source, *arguments], capture_output=True, text=True,
                           timeout=TIMEOUT, cwd=cwd, env=environment())  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


if __name__ == "__main__":
    for name, told in PACKAGES.items():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(FOLDER / name)]
        if subprocess.run([*pip, *shlex.split(told)], check=False).returncode:  # no network, or not there any more
            shutil.rmtree(FOLDER / name, ignore_errors=True)
            print(f"{name} cannot be installed: its tests will be skipped")
