"""What the command lines of hmp and hmp-cast2svg share, with click.

click's own errors have several lines and a usage text. Here each error is one line that names the option and the value.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import click

from device.errors import MisuseError
from hmp import __version__
from hmp.monitor import UsageError
from hmp.streams import STDOUT, naming_stdout

FILE = click.Path(readable=False)
"""The type of file names. Opening a file shows whether it can be read; click's own check would word the error
differently."""

LIKE = 0.75
"""How similar (0 to 1) an option must be to what was typed, to be suggested. click suggests --seed for --nonsense."""


def value(
    flags: list[str], name: str, read: Callable[[str], Any], help: str, default: str | None = None, *,
    offers: Mapping[str, str] | None = None, files: str = "", multiple: bool = False,
) -> click.Option:  # fmt: skip
    """Return an option with a value that `read` converts; with `multiple` the result is a tuple.

    A shell completes the words of `offers`, or file names if `files` is "file" or "dir".
    """

    def complete(context: click.Context, param: click.Parameter, begun: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        if files:
            return [CompletionItem(begun, type=files)]
        return [CompletionItem(word, help=help) for word, help in (offers or {}).items() if word.startswith(begun)]

    def convert(context: click.Context, param: click.Parameter, given: Any) -> Any:
        return tuple([one(param, each) for each in given]) if multiple else one(param, given)

    def one(param: click.Parameter, given: str | None) -> Any:
        try:
            return None if given is None else read(given)
        except MisuseError as error:
            # Name the value once, if the error does not name it itself.
            named = "" if f"'{given}'" in str(error) else f" '{given}'"
            raise UsageError(f"{max(param.opts, key=len)}{named}: {error}") from None

    return click.Option(
        flags,
        # A callback and not a click type: click writes the name of a type in capitals in the help.
        type=str, callback=convert, metavar=name, help=help, default=(default,) if multiple else default,
        show_default=default is not None, multiple=multiple, shell_complete=complete,
    )  # fmt: skip


def choice(flag: str, choices: Mapping[str, str], default: str) -> click.Option:
    """Return an option that takes one of `choices`; its help lists them with their help."""

    def read(text: str) -> str:
        if text not in choices:
            raise MisuseError(f"'{text}' is not one of {', '.join(choices)}")
        return text

    listed = "; ".join(f"{name}: {help}" for name, help in choices.items())
    return value([flag], "NAME", read, f"{listed}.", default, offers=choices)


def switch(flags: list[str], help: str) -> click.Option:
    """Return an option without a value."""
    return click.Option(flags, is_flag=True, help=help)


def program(name: str, params: list[click.Parameter], help: str, epilog: str | None = None) -> click.Command:
    """Return the click command of a program, for parsing, help and the docs. Its callback only returns the options."""
    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
    made = click.Command(name, settings, lambda **values: values, list(params), help=help, epilog=epilog)
    return click.version_option(__version__, prog_name=name, message="%(prog)s %(version)s")(made)


def read_arguments(command: click.Command, argv: Sequence[str] | None) -> dict[str, Any] | None:
    """Return the options by name, or None if click has answered already (--help and so on).

    Raises UsageError with one line that names the option and the value.
    """
    try:
        with naming_stdout():  # --help and so on print
            values = command.main(argv, command.name, standalone_mode=False)
    except click.UsageError as error:
        if isinstance(error, click.NoSuchOption):
            near = get_close_matches(error.option_name, error.possibilities or (), 3, LIKE)
            error = click.NoSuchOption(error.option_name, error.message, near, error.ctx)
        raise UsageError(" ".join(error.format_message().split())) from None
    except click.Abort:  # click raises this for SIGINT
        raise KeyboardInterrupt from None
    except SystemExit as end:  # click raises this for a closed stdout, and after a shell's completion
        if not end.code:
            return None
        raise OSError(errno.EPIPE, "", STDOUT) from None
    return values if isinstance(values, dict) else None  # else it is the status of an eager option
