"""hmp-cast2svg: an asciicast as a picture that moves, for a README or a page."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from hmp import __version__
from hmp.monitor.escape import escape
from hmp.newfile import named_again, write_file
from hmp.recording.svg_cast import CastError, read_cast

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from hmp.recording.svg_cast import Recording

PROGRAM = "hmp-cast2svg"

HOLD = 1000
"""ms that the last screen stands, at least, before the picture begins anew."""


class _Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def error(self, message: str) -> NoReturn:
        _complain(message)
        raise SystemExit(2)


def _complain(text: str) -> None:
    print(f"{PROGRAM}: {escape(text)}", file=sys.stderr)  # noqa: T201


def _seconds(text: str) -> int:
    try:
        ms = round(float(text) * 1000)
    except (ValueError, OverflowError):
        ms = -1
    if ms < 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds")
    return ms


def parser() -> argparse.ArgumentParser:
    """Return the parser, for the program and the docs."""
    made = _Parser(PROGRAM, description="Make an animated SVG of an asciicast (version 2), without scripts or fonts.")
    made.add_argument("cast", metavar="CAST", help="the recording")
    made.add_argument("svg", metavar="SVG", help="the picture to make")
    made.add_argument("--at", metavar="SEC", type=_seconds, help="a still of that second instead")
    made.add_argument(
        "--title", metavar="TEXT", help="what the picture is called; the recording's own title if not given"
    )
    made.add_argument("--overwrite", action="store_true", help="replace a picture that exists")
    made.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    return made


def render(recording: Recording, *, title: str | None = None, at: int | None = None) -> str:
    """Return the SVG of a recording, or of its state at `at` ms. Raises CastError, ImportError without pyte."""
    from hmp.recording.svg_draw import Picture, plain_text
    from hmp.recording.svg_screen import play

    story = play(recording, until=at)
    chapters = [(event.at, event.text) for event in recording.chapters if at is None or event.at <= at]
    if title is None:
        title = recording.title or "a terminal session"
    last = plain_text(story)
    if at is None:
        length = max(recording.length, story.last_change + HOLD)
        said = f"A terminal recording of {recording.length / 1000:.0f} seconds."
        if chapters:
            said += f" Chapters: {'; '.join([text for _, text in chapters])}."
        said += f" It ends with:\n{last}"
    else:
        length = 0
        said = f"A terminal after {at / 1000:g} seconds:\n{last}"
    return Picture(story, length=length, animate=at is None).draw(title, said, chapters)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status: 0, 1 if the cast is bad or a file is, 2 for bad usage."""
    options = parser().parse_args(argv)
    try:
        recording = read_cast(options.cast)
        picture = render(recording, title=options.title, at=options.at)
    except CastError as error:
        _complain(f"{options.cast}: {error}")
        return 1
    except ImportError as error:
        if error.name != "pyte":
            raise
        _complain("needs pyte: pip install 'hmp-emulator[svg]'")
        return 1
    except (OSError, ValueError) as error:
        return _failed(options.cast, error)
    if options.overwrite and named_again(options.svg, [("it", options.cast)]):
        _complain(f"{options.svg}: is the recording itself; give the picture another name")
        return 2
    try:
        write_file(options.svg, picture.encode(), overwrite=options.overwrite)
    except FileExistsError:
        _complain(f"{options.svg}: exists; --overwrite replaces it")
        return 2
    except (OSError, ValueError) as error:
        return _failed(options.svg, error)
    return 0


def _failed(path: str, error: Exception) -> int:
    _complain(f"{path}: {error.strerror if isinstance(error, OSError) else error}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
