"""hmp-cast2svg: an asciicast as a picture that moves, for a README or a page."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import click

from device.clock import MS
from device.units import parse_seconds
from hmp.command_line import FILE, program, read_arguments, switch, value
from hmp.monitor import UnreadableError, UsageError
from hmp.newfile import find_same_file, write_file
from hmp.recording.cast import parse_speed
from hmp.recording.svg_cast import CastError, Recording, paced, read_cast
from hmp.streams import complain, guarded, naming_stdout, write_all

PROGRAM = "hmp-cast2svg"

HOLD = 1000
"""The least ms for which the last screen is shown before the picture starts again."""


_NAMED = 5


def command() -> click.Command:
    """Return the click command."""
    return program(
        PROGRAM,
        [
            click.Argument(["cast"], type=FILE),
            click.Argument(["svg"], type=FILE),
            value(["--at"], "SEC", parse_seconds, "Make a still picture of that second."),
            value(["--from", "start"], "SEC", parse_seconds, "Start the picture at that second."),
            value(["--to", "end"], "SEC", parse_seconds, "End the picture at that second."),
            value(
                ["--idle"],
                "SEC",
                parse_seconds,
                "Shorten longer pauses to this; idle_time_limit of the recording if not given.",
            ),
            value(["--speed"], "X", parse_speed, "Play X times as fast, from 0.01 to 100."),
            switch(["--once"], "Play once, then show the last screen."),
            click.Option(
                ["--title"], metavar="TEXT", help="Title of the picture; the title of the recording if not given."
            ),
            switch(["--overwrite"], "Replace a picture that exists."),
        ],
        "Make an animated picture, SVG, of CAST, an asciicast (version 2). - is stdin or stdout.",
    )


def render(
    recording: Recording,
    *,
    title: str | None = None,
    at: int | None = None,
    once: bool = False,
    warn: Callable[[str], object] = lambda _: None,
) -> str:
    """Return the SVG of a recording, or of its state at `at` ms.

    `warn` gets one line about what the output has that is not drawn.
    """
    from hmp.recording.svg_draw import Picture, plain_text
    from hmp.recording.svg_screen import play

    playback = play(recording, until=at)
    if playback.unsupported:
        more = len(playback.unsupported) - _NAMED
        named = ", ".join(playback.unsupported[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        warn(f"not drawn: {named}; everything else is drawn")
    chapters = [(event.at, event.text) for event in recording.chapters if at is None or event.at <= at]
    if title is None:
        title = recording.title or "a terminal session"
    last = plain_text(playback)
    if at is None:
        # A cast may end with its last output, which would be gone at once when the picture starts again.
        length = max(recording.length, playback.last_change + HOLD)
        said = f"A terminal recording of {_seconds(round(recording.length / 1000))}."
        if chapters:
            said += f" Chapters: {'; '.join([text for _, text in chapters])}."
        said += f" It ends with:\n{last}"
    else:
        length = 0
        said = f"A terminal after {_seconds(at / 1000)}:\n{last}"
    return Picture(playback, length=length, animate=at is None, once=once).draw(title, said, chapters)


def _seconds(number: float) -> str:
    return f"{number:g} second{'s' * (number != 1)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status: 0, 1 if the cast is bad or a file is, 2 for bad usage."""
    return guarded(lambda: _run(argv), PROGRAM)


def _run(argv: Sequence[str] | None) -> int:
    asked = os.environ.get("_HMP_CAST2SVG_COMPLETE")
    if asked:
        from hmp.shells import complete

        return complete(command(), asked)
    options = read_arguments(command(), argv)
    return 0 if options is None else _convert(**options)


def _convert(
    cast: str,
    svg: str,
    *,
    at: int | None,
    start: int | None,
    end: int | None,
    idle: int | None,
    speed: float | None,
    once: bool,
    title: str | None,
    overwrite: bool,
) -> int:
    if at is not None and (once or any(given is not None for given in (start, end, idle, speed))):
        raise UsageError(
            "--at: a still picture has no speed: not together with --from, --to, --idle, --speed or --once"
        )
    if start is not None and end is not None and start > end:
        raise UsageError("--from: is after --to")
    said = "stdin" if cast == "-" else cast
    try:
        recording = read_cast(cast)
        if at is None:
            idle, end = (None if ns is None else ns // MS for ns in (idle, end))
            recording = paced(recording, idle=idle, speed=speed or 1, start=(start or 0) // MS, end=end)
        picture = render(
            recording,
            title=title,
            at=None if at is None else at // MS,
            once=once,
            warn=lambda text: complain(f"{said}: {text}", PROGRAM),
        )
    except (CastError, OSError, ValueError) as error:
        raise _failed(said, error) from None
    if svg != "-" and overwrite and find_same_file(svg, [("it", cast)]):
        raise UsageError(f"{svg}: is the recording itself; give the picture another name")
    try:
        if svg == "-":
            with naming_stdout():
                write_all(1, picture.encode())
        else:
            write_file(svg, picture.encode(), overwrite=overwrite)
    except FileExistsError:
        raise UsageError(f"{svg}: exists; --overwrite replaces it") from None
    except (OSError, ValueError) as error:
        if svg == "-":
            raise
        raise _failed(svg, error) from None
    return 0


def _failed(path: str, error: Exception) -> UnreadableError:
    return UnreadableError(f"{path}: {error.strerror if isinstance(error, OSError) else error}")


if __name__ == "__main__":
    sys.exit(main())
