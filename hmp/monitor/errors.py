"""Errors of the monitor's own."""

from __future__ import annotations

MAX_LINE = 4095
"""Characters of a line, as QEMU's monitor takes them."""

TOO_LONG = f"line too long: more than {MAX_LINE} characters"


class CommandError(Exception):
    """A command failed. `desc` is QEMU's words; HMP prints them behind `Error: `, QMP sends them with `kind`."""

    def __init__(self, desc: str, kind: str = "GenericError") -> None:
        super().__init__(desc)
        self.desc = desc
        self.kind = kind


class HostRefused(CommandError):
    """What starts programs or names files of this host was asked for by somebody who may not: a client of a socket."""

    def __init__(self) -> None:
        super().__init__("not from a socket: --allow-host-files allows it")


class SyntaxRefused(Exception):
    """A line does not parse. The text is what QEMU's monitor prints, without the hint at `help`."""


class UnreadableError(Exception):
    """A script or stdin turned out not to be readable; the message says why."""


class UsageError(Exception):
    """The command line of hmp is wrong; the message names the option and the value. Exit status 2."""
