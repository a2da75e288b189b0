"""The monitor that is typed at a terminal: the prompt, the output above it, and the settings of the terminal."""

from __future__ import annotations

import os


def history_path() -> str | None:
    """Return the path of the history file, or None if the environment names no absolute path."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # the XDG rules say to ignore a relative path
        state = os.path.expanduser("~/.local/state")
    return os.path.join(state, "hmp", "history") if os.path.isabs(state) else None


def history_kept() -> bool:
    """Return whether the history file can be written, or made; nothing is made yet."""
    place = file = history_path() or ""
    while place and not os.path.lexists(place):
        place = os.path.dirname(place)
    # A file in place of a directory, or the other way round, cannot be used.
    return bool(place) and (os.path.isfile if place == file else os.path.isdir)(place) and os.access(place, os.W_OK)
