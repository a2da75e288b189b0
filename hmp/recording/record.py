"""--record: which of the two ways of recording a run takes, and what it needs.

Read with the other options: what only a recording needs is imported by the functions that make one.
"""

from __future__ import annotations

import os
import sys

from device.errors import MisuseError
from hmp.monitor.errors import UsageError
from hmp.monitor.escape import escape
from hmp.streams import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from device.machine.machine import Machine
    from hmp.config import Config
    from hmp.newfile import NewFile
    from hmp.pipe import Runner, Source
    from hmp.recording.recorder import Recorder

DEFAULT_SIZE = (80, 24)
"""Columns and rows of a recorded script."""

TITLE = "hmp"


MIN_SIZE, MAX_SIZE = (20, 4), (500, 200)

_STANDARD: list[tuple[str, int | str]] = [("stdout, which takes what commands print", 1), ("stderr", 2)]

FAILED = 1
"""Exit status of a run whose recording ended before it."""


def read_terminal_size(text: str) -> tuple[int, int]:
    """Return columns and rows as --size gives them. Raises MisuseError."""
    columns, _, rows = text.partition("x")
    if not all(part.isascii() and part.isdigit() and len(part) < 5 for part in (columns, rows)):
        raise MisuseError(f"'{text}' is not COLSxROWS, such as 80x24")
    size = int(columns), int(rows)
    if not all(least <= side <= most for least, side, most in zip(MIN_SIZE, size, MAX_SIZE, strict=True)):
        least, most = ("x".join(map(str, limit)) for limit in (MIN_SIZE, MAX_SIZE))
        raise MisuseError(f"'{text}' is not between {least} and {most}")
    return size


def check_options(config: Config) -> None:
    """Refuse options that do not fit together, whatever else the run is. Raises UsageError."""
    if config.record is None:
        for name, given in (("--size", config.size), ("--overwrite", config.overwrite)):
            if given:
                raise UsageError(f"{name}: only together with --record")
    elif config.headless:
        raise UsageError("--record: not together with --headless: there is no monitor to be seen")


def check(config: Config, *, typed: bool) -> None:
    """Refuse what can't be recorded, before anything is made. Raises UsageError."""
    if typed:
        from hmp.terminal.screen import DUMB

        if config.size is not None:
            raise UsageError("--size: is for recorded scripts: what is typed is recorded in the terminal's own size")
        term = os.environ.get("TERM", "")
        if term.lower() in DUMB:
            raise UsageError(f"--record: TERM={escape(term)}: such a terminal echoes what is typed behind our back")
        return
    if config.interactive:
        raise UsageError("--record: not together with -i: record the script or what is typed")
    if config.addresses:
        raise UsageError("--record: a script is recorded without --monitor and --qmp: others would change its course")
    if config.clock == "real":
        raise UsageError(
            "--record: a script is recorded on simulated time: give --clock warp too (a real guest is recorded typed)"
        )


def title(sources: Sequence[Source]) -> str:
    """Return what to call a recording: by its first script."""
    for name, source in sources:
        if isinstance(source, int) and source:
            return f"{TITLE}: {escape(os.path.splitext(os.path.basename(name))[0])}"
    return TITLE


def record_script(config: Config, path: str, machine: Machine, runner: Runner, sources: Sequence[Source]) -> int:
    """Run `sources` and make the cast of it; returns the exit status.

    Raises UsageError before anything runs, OSError for stdout and KeyboardInterrupt. The cast is valid in any case.
    """
    from hmp.recording.cast import Cast, create
    from hmp.recording.player import Player
    from hmp.recording.script import read_steps

    steps = read_steps(sources)
    columns, rows = config.size or DEFAULT_SIZE
    spared = [("the script itself", source) for _, source in sources if isinstance(source, int)]
    file = create(path, overwrite=config.overwrite, spared=spared + _STANDARD)
    cast = Cast(file.descriptor, columns=columns, rows=rows, title=title(sources), on_failure=_failure(path))
    _settle(file, path, cast.failed)
    try:
        machine.start(paused=config.paused)
        Player(machine, runner, cast, columns=columns, seed=config.seed).play(steps)
    finally:
        cast.close()
    return runner.status(fail_stale=config.fail_stale) or (FAILED if cast.failed else 0)


def record_typed(config: Config, path: str, session: Callable[[Recorder], int]) -> int:
    """Run a typed session and make the cast of it; returns the exit status. Raises UsageError before it begins."""
    from hmp.monitor.history import history_path
    from hmp.recording.cast import create
    from hmp.recording.recorder import Recorder

    history = history_path()
    spared = _STANDARD if history is None else [*_STANDARD, ("the history of what was typed", history)]
    file = create(path, overwrite=config.overwrite, private=True, spared=spared)
    recorder = Recorder(sys.stdout, file.descriptor, title=TITLE)
    _settle(file, path, recorder.failed)
    try:
        status = session(recorder)
    finally:
        if not recorder.failed:  # else the session has told
            recorder.on_failure(_failure(path))
        recorder.close()
    return status or (FAILED if recorder.failed else 0)


def _settle(file: NewFile, path: str, failed: bool) -> None:
    """Let the recording, which has begun, take its place: from here on the path holds a valid cast in any case."""
    try:
        file.settle(not failed)
    except OSError as error:
        raise UsageError(f"--record: '{escape(path)}': {error.strerror}") from None


def _failure(path: str) -> Callable[[str], None]:
    return lambda reason: complain(f"--record: '{escape(path)}': {reason}")
