"""The monitor typed at a terminal: the prompt, what is printed above it, and the terminal's own settings."""

from __future__ import annotations

import os


def history_path() -> str | None:
    """Return where the history belongs, or None where the environment names no sensible place."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # the XDG rules: a relative path is to be ignored
        state = os.path.expanduser("~/.local/state")
    return os.path.join(state, "hmp", "history") if os.path.isabs(state) else None
