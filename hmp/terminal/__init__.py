"""The monitor that is typed at a terminal: the prompt, the output above it, and the settings of the terminal."""

from __future__ import annotations

import os


def history_path() -> str | None:
    """Return the path of the history file, or None if the environment names no absolute path."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # the XDG rules say to ignore a relative path
        state = os.path.expanduser("~/.local/state")
    return os.path.join(state, "hmp", "history") if os.path.isabs(state) else None
