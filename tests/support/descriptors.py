"""The descriptors that this process has open, to check that none is left."""

from __future__ import annotations

import gc
import os


def open_descriptors() -> dict[int, str]:
    """Return this process's descriptors and what they are.

    Garbage is collected first: machines that other tests left would close theirs at any moment.
    """
    gc.collect()
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor of the listing itself
    return found
