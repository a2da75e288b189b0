"""What this process holds open, to see that none stays."""

from __future__ import annotations

import gc
import os


def open_descriptors() -> dict[int, str]:
    """Return this process's descriptors and what they are.

    Machines that other tests left to the garbage collector are gone first, or they would go at any moment.
    """
    gc.collect()
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the one of the listing itself
    return found
