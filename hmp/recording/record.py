"""--record: the checks of its options, and the start of a recording.

This is imported with the other options, so modules that only a recording needs are imported in the functions.
"""

from __future__ import annotations

import os

from device.clock import SECOND
from device.errors import MisuseError
from device.units import parse_seconds
from hmp.monitor import UsageError, escape
from hmp.streams import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from hmp.config import Config
    from hmp.recording.cast import Cast
    from hmp.recording.recorder import Recorder

    T = TypeVar("T", Cast, Recorder)

DEFAULT_SIZE = (80, 24)
"""Columns and rows of a recorded script."""

TITLE = "hmp"


# sim chart and the countdown are made to fit into 20 columns.
MIN_SIZE, MAX_SIZE = (20, 4), (500, 200)

# Files that are written to while a script runs. A cast in one of them would be mixed with what is printed.
_STANDARD: list[tuple[str, int | str]] = [("stdout, which takes what commands print", 1), ("stderr", 2)]


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


def read_speed(text: str) -> float:
    """Return a factor from 0.01 to 100. Raises MisuseError."""
    try:
        speed = parse_seconds(text) / SECOND
    except MisuseError:
        speed = 0
    if not 0.01 <= speed <= 100:
        raise MisuseError(f"'{text[:60]}' is not a number from 0.01 to 100")
    return speed


def check_options(config: Config) -> None:
    """Refuse options that do not fit together in any kind of run. Raises UsageError."""
    if config.record is None:
        for name, given in (("--size", config.size), ("--overwrite", config.overwrite)):
            if given:
                raise UsageError(f"{name}: only together with --record")
    elif config.headless:
        raise UsageError("--record: not together with --headless: there is no monitor to be seen")


def check(config: Config, *, typed: bool) -> None:
    """Refuse a run that cannot be recorded, before a file is made. Raises UsageError."""
    if typed:
        from hmp.terminal.screen import DUMB

        if config.size is not None:
            raise UsageError("--size: is for recorded scripts: what is typed is recorded in the terminal's own size")
        term = os.environ.get("TERM", "")
        if term.lower() in DUMB:
            raise UsageError(
                f"--record: TERM={escape(term)}: the terminal itself shows what you type, so it cannot be recorded"
            )
        return
    if config.interactive:
        raise UsageError("--record: not together with -i: record the script or what is typed")
    if config.addresses:
        raise UsageError(
            "--record: a script is recorded without --monitor and --qmp: clients could change what it shows"
        )


def title(sources: Sequence[tuple[str, int | list[str]]]) -> str:
    """Return the title of a recording, which has the name of its first script."""
    for name, source in sources:
        # Descriptor 0 is stdin, whose name says nothing; lines of -c have none.
        if isinstance(source, int) and source:
            return f"{TITLE}: {escape(os.path.splitext(os.path.basename(name))[0])}"
    return TITLE


def begin(
    config: Config, make: Callable[[int], T], *, in_use: Sequence[tuple[str, int | str]], private: bool = False
) -> T:
    """Open the file for a recording, call `make` with its descriptor, and move the file to its path.

    From then on the path is a valid cast, however the run ends. For `in_use` and `private` see `create`. Raises
    UsageError.
    """
    from hmp.recording.cast import create

    path = config.record or ""
    file = create(path, overwrite=config.overwrite, private=private, in_use=[*in_use, *_STANDARD])
    made = make(file.descriptor)
    try:
        file.settle(not made.failed)
    except OSError as error:
        raise UsageError(f"--record: '{escape(path)}': {error.strerror}") from None
    return made


def report_failure(config: Config, reason: str) -> None:
    """Say that the recording ended."""
    complain(f"--record: '{escape(config.record or '')}': {reason}")
