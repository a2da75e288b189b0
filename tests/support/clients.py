"""Other people's programs that talk to QEMU, as they are in the package index: `python -m tests.support.clients` installs.

Each has a folder of its own in .clients/, since they do not agree on versions of what they need.
"""

from __future__ import annotations

import functools
import os
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
    "qemu.qmp": "qemu.qmp==0.0.6",
    "transient": "transient==0.25 setuptools<80",
    "mcqemu": "mcqemu==2026.8.18",
    # fc.qemu's agent needs a Consul client that the index does not have; the part that talks to QEMU does not.
    "fc.qemu": "--no-deps fc.qemu==1.4.0 six structlog psutil PyYAML colorama",
    "exec-sandbox": "exec-sandbox==0.22.0",
}
"""For each client what pip is told. Versions are those in the table of docs/fake-qemu.md."""

NEWER = {"exec-sandbox": "3.12"}
"""The Python that a client needs where it is newer than hmp's own."""


@functools.cache
def interpreter(client: str) -> str | None:
    """Return the Python for a client, None if there is none on PATH; pyenv's is started through PYENV_VERSION."""
    if client not in NEWER or sys.version_info >= tuple(map(int, NEWER[client].split("."))):
        return sys.executable
    found = shutil.which(f"python{NEWER[client]}")
    asked = [found or "false", "-c", "import sys; print(sys.executable)"]
    ended = subprocess.run(asked, capture_output=True, text=True, env=os.environ | {"PYENV_VERSION": NEWER[client]})
    return ended.stdout.strip() or None


def python(client: str, source: str, *arguments: str, under: str = "", cwd: Path | None = None) -> str:
    """Run a program that imports `client` from below its folder, with `arguments`; return what it printed."""
    folder = FOLDER / client
    program = interpreter(client)
    if not folder.is_dir() or program is None:
        newer = f" (and Python {NEWER[client]})" if client in NEWER else ""
        pytest.skip(f"needs {client}: make clients{newer}")
    begin = f"import site, sys; sys.path.insert(0, {str(folder / under)!r}); site.addsitedir({str(folder)!r})\n"
    ended = subprocess.run([program, "-c", begin + source, *arguments], capture_output=True, text=True,
                           timeout=TIMEOUT, cwd=cwd, env=environment())  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


if __name__ == "__main__":
    for name, told in PACKAGES.items():
        # This fails without a network or such a Python, or if the index has no such client any more.
        pip = [
            interpreter(name) or "false",
            "-m",
            "pip",
            "install",
            "--no-warn-conflicts",  # with what is in this environment: it gets none of them
            "--quiet",
            "--upgrade",
            "--target",
            str(FOLDER / name),
        ]
        if subprocess.run([*pip, *shlex.split(told)], check=False).returncode:
            shutil.rmtree(FOLDER / name, ignore_errors=True)
            print(f"{name} cannot be installed: its tests will be skipped")
