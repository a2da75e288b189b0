"""File systems mounted for a test, where this machine lets us."""

from __future__ import annotations

import subprocess
from pathlib import Path


def mounted(*arguments: str) -> bool:
    """Mount as these arguments of mount(8) say; returns whether that worked."""
    return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


def unmount(path: Path) -> None:
    """Unmount what is there, in use or not."""
    subprocess.run(["umount", "-l", str(path)], capture_output=True)
