"""Records vm.typed beside a real QEMU with a real Linux in it, and is somebody else who stops it: running_vm.py.

Whoever has a VM types `hmp --attach unix:QMP.sock --record vm.cast vm.typed`. This boots one, and stops and continues
it when those chapters begin. It needs what tests/support/live.py needs; `make demo-vm` runs it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEMOS = Path(__file__).parent
sys.path.insert(0, str(DEMOS.parents[1]))

from tests.support.vms import boot  # noqa: E402

MEANWHILE = {"Somebody else stops it": "stop", "It runs again": "cont"}


def main() -> None:
    """Make the cast."""
    with tempfile.TemporaryDirectory() as folder:
        cast = Path(folder, "vm.cast")  # the chapters of the old one would be taken for those of this
        vm = boot(Path(folder))
        try:
            options = ["--attach", f"unix:{folder}/a", "--size", "56x24", "--record", str(cast)]
            left = dict(MEANWHILE)
            with subprocess.Popen([sys.executable, "-m", "hmp", *options, str(DEMOS / "vm.typed")]) as child:
                while child.poll() is None:
                    time.sleep(0.1)
                    shown = cast.read_text(encoding="utf-8") if cast.exists() else ""
                    for chapter in [each for each in left if each in shown]:
                        vm.aside.ask(left.pop(chapter))
            if child.returncode == 0:
                shutil.copyfile(cast, DEMOS / cast.name)
            sys.exit(child.returncode)
        finally:
            vm.close()


if __name__ == "__main__":
    main()
