"""Makes the demos again and compares them with the committed ones: python -m tests.support.demos [PYTHON].

PYTHON is that of the environment whose hmp makes them; otherwise this one does.

With the libraries that docs/demos/requirements.txt names the bytes have to be the same. With others the screens are
compared: differences are printed and are no failure, because the libraries may cause them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from hmp.recording.camera import Camera
from tests.support.casts import DEMOS, environment, read
from tests.support.timing import PATIENCE

SCRIPTS = sorted(DEMOS.glob("*.hmp"))


_VERSIONS = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"


def others(python: str = sys.executable) -> list[str]:
    """Return what is installed in other versions than those that made the demos."""
    lines = (DEMOS / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    asked = subprocess.run([python, "-c", _VERSIONS, *pins], capture_output=True, text=True, check=True)
    found = zip(pins.items(), asked.stdout.split(), strict=True)
    return [f"{name} {version}, not {pin}" for (name, pin), version in found if version != pin]


def make(script: Path, cast: Path, python: str = sys.executable) -> None:
    """Make the cast of a script, in the size of the committed one."""
    header, _ = read(script.with_suffix(".cast"))
    options = ["--clock", "warp", "--size", f"{header['width']}x{header['height']}", "--record", cast]
    command = [python, "-m", "hmp", *options, script]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def screens(cast: Path) -> dict[float, list[str]]:
    """Return the rows after each change, with their colours: what differs here can be seen."""
    header, events = read(cast)
    camera = Camera(header["width"], header["height"])
    found: dict[float, list[str]] = {}
    for at, kind, text in events:
        if kind == "o":
            camera.screen.feed(text)
            rows = [camera.row(y) for y in range(header["height"])]
            found[at] = ["".join(char.data for char in row) for row in rows] + [repr(rows)]
    return found


def difference(made: Path, committed: Path) -> str:
    """Return where two casts first show something else, or nothing."""
    ours, theirs = screens(made), screens(committed)
    one: list[str] = []
    two: list[str] = []
    for at in sorted({*ours, *theirs}):
        one, two = ours.get(at, one), theirs.get(at, two)
        if one != two:
            row = next((y for y, (left, right) in enumerate(zip(one, two, strict=True)) if left != right), 0)
            if row == len(one) - 1:
                return f"{committed.stem}: other colours at {at} s"
            return f"{committed.stem}: row {row + 1} at {at} s is {one[row].rstrip()!r}, and was {two[row].rstrip()!r}"
    return ""


def main() -> int:
    """Compare all; the exit status is 1 where the bytes should be the same and are not."""
    python = (sys.argv + [sys.executable])[1]
    libraries, failed = others(python), False
    for script in SCRIPTS:
        with tempfile.TemporaryDirectory() as folder:
            cast, committed = Path(folder, "x.cast"), script.with_suffix(".cast")
            make(script, cast, python)
            if cast.read_bytes() == committed.read_bytes():
                continue
            failed = failed or not libraries
            print(difference(cast, committed) or f"{committed.stem}: the same screens, in other bytes")
    print(f"compared screens, with {'; '.join(libraries)}" if libraries else "compared bytes")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
