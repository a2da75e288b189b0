"""Types at hmp's prompt, in real time, beside a real QEMU with a real Linux in it: running_vm.py SCRIPT CAST.

As with real_kernel.py there is nothing to compare such a cast with: look at it, then `make demos`. It needs what
tests/support/live.py needs, and the dev extra; run it from the top of the tree, as `make demo-vm` does.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from real_kernel import Story, finish  # noqa: E402

from tests.support.vms import boot  # noqa: E402


def main(script: str, path: str) -> None:
    """Make the cast."""
    with tempfile.TemporaryDirectory() as folder:
        vm = boot(Path(folder))
        try:
            story = Story(Path(folder, "typed.cast"), folder, ["--attach", f"unix:{folder}/a"])
            for line in Path(script).read_text().splitlines():
                word, _, rest = line.removeprefix("#!").removeprefix("#").strip().partition(" ")
                if not line.startswith("#"):
                    story.line(line)
                elif word == "chapter":
                    story.chapter(rest)
                elif word == "pause":
                    story.look(float(rest))
                elif word == "meanwhile":
                    vm.aside.ask(rest)
            finish(story, f"hmp: {Path(script).stem}", Path(path))
        finally:
            vm.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
