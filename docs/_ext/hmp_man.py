"""The man page, from the same tables as the site: `python docs/_ext/hmp_man.py docs/hmp.1` (make man)."""

from __future__ import annotations

import re
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import hmp_tables

from hmp import QEMU_VERSION, __version__
from hmp.recording.script import AFTER, CHAPTER, HIDE, KEY, PAUSE, SHOW, SPEED, TYPE, WAIT

NAME = "an emulator of QEMU's human monitor, on a real virtio-balloon device core"

SYNOPSIS = r"""
.SY hmp
.RI [ OPTION ]\|.\|.\|.\&
.RI [ SCRIPT ]\|.\|.\|.
.YS
"""

WHAT = (
    "`hmp` is the monitor of a virtual machine without the virtual machine. It understands the words of QEMU's human "
    "monitor and drives a virtio-balloon device whose guest is a model that answers at once, late, badly or never, as "
    "it is told; or a real kernel. `info balloon` asks the guest for its memory statistics and suspends the monitor "
    "until it answers or the timeout is over; numbers that are old then carry their age in milliseconds."
)

HOW = (
    "With a terminal on stdin and stdout, and neither a SCRIPT nor `-c`, there is a prompt to type at. Otherwise "
    "commands come from `-c`, from the SCRIPT files (`-` is stdin) or from stdin, one a line; a line that starts with "
    "`#` is a comment. Only what the commands print goes to stdout."
)

WHERE = (
    "`unix:PATH`, `tcp:HOST:PORT` or, for `--monitor`, `telnet:HOST:PORT`; port 0 picks a free one. Behind a comma "
    "follow `wait=on` (the guest runs once the first client came) and `dialect=NAME`. When all addresses listen, one "
    "line on stderr says so and names the ports."
)

RECORDING = (
    "`--record` writes an asciicast of version 2: of what you type, in real time, or of a script, which hmp types at "
    "the prompt. Comments that start with `#!` control the recording of a script:"
)

DIRECTIONS = hmp_tables.Table(
    ("line", "effect"),
    [
        (f"`#! {CHAPTER}` *TEXT*", "puts a marker into the recording"),
        (f"`#! {KEY}` *NAME* ...", "presses keys; directly after a command, while it waits"),
        (f"`#! {TYPE}` *TEXT*", "types text, without Enter"),
        (f"`#! {AFTER}` *SEC*", "sets how long hmp waits before the next `key` or `type` line"),
        (f"`#! {WAIT}` *PATTERN*", "waits until the screen shows the pattern, a regular expression"),
        (f"`#! {PAUSE}` *SEC*", "lets time pass in the recording, but not on the machine"),
        (f"`#! {SPEED}` *X*", "types and reads *X* times as fast from here on"),
        (f"`#! {HIDE}`", "runs the lines that follow without recording them"),
        (f"`#! {SHOW}`", "records again"),
    ],
)

PICTURE = (
    "`hmp-cast2svg` *CAST* *SVG* makes an animated picture of a recording, with `--at` *SEC* a still; `--from` "
    "*SEC*, `--to` *SEC*, `--idle` *SEC*, `--speed` *X* and `--once` set its part and pace; `--title` *TEXT* names it, "
    "`--overwrite` replaces one that exists."
)

EMULATED = (
    f"The QEMU that is emulated is {QEMU_VERSION}; where it is not, the project's documentation says so and why. hmp "
    "needs Linux on a little-endian machine."
)

ENVIRONMENT = hmp_tables.Table(
    ("variable", "meaning"),
    [
        ("`NO_COLOR`", "no colours at the prompt, if it is set"),
        ("`TERM`", "`dumb` gives a plain prompt without any control codes"),
        ("`XDG_STATE_HOME`", "where the prompt keeps its history; `~/.local/state` if not set"),
        ("`_HMP_COMPLETE`", "`bash_source`, `zsh_source` or `fish_source`: print what teaches that shell to complete"),
    ],
)


def text(markdown: str) -> str:
    """Return a cell or a paragraph as roff: what is in backticks is bold, what is between asterisks italic."""
    out = ""
    for part in re.split(r"(`[^`]+`|(?<= )\*[^*]+\*)", markdown):
        font = {"`": "B", "*": "I"}.get(part[:1], "") if len(part) > 2 else ""
        out += rf"\f{font}{_escape(part[1:-1])}\fP" if font else _escape(part)
    return rf"\&{out}" if out[:1] in (".", "'") else out


def _escape(plain: str) -> str:
    return plain.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("~", r"\(ti")


def tagged(table: hmp_tables.Table) -> str:
    """Return a table as a list: the first cell is the tag, the others follow."""
    lines = []
    for first, *rest in table.rows:
        lines += [".TP", text(first), text("; ".join(rest))]
    return "\n".join(lines) + "\n"


def section(title: str, *parts: str) -> str:
    """Return a section of paragraphs, lists and raw roff."""
    return f".SH {title}\n" + ".PP\n".join(parts)


def paragraph(markdown: str) -> str:
    """Return a paragraph."""
    return text(markdown) + "\n"


def page() -> str:
    """Return the whole page."""
    tables = {name: tagged(make()) for name, make in hmp_tables.TABLES.items()}
    return "".join(
        [
            '.\\" Made by docs/_ext/hmp_man.py from the tables that hmp runs on: make man.\n',
            f'.TH HMP 1 "" "hmp-emulator {__version__}" "User Commands"\n',
            section("NAME", f"hmp \\- {_escape(NAME)}\n"),
            section("SYNOPSIS", SYNOPSIS.lstrip()),
            section("DESCRIPTION", paragraph(WHAT), paragraph(HOW)),
            section("OPTIONS", tables["option-rows"]),
            section("ADDRESSES", paragraph(WHERE)),
            section("GUESTS", tables["guests"]),
            ".SS Keys of every modelled guest\n" + tables["modelled-keys"],
            ".SS Keys of some guests\n" + own_keys(),
            section("COMMANDS", tables["hmp-commands"]),
            ".SS What info shows\n" + tables["info-topics"],
            ".SS Control of the simulation\n" + tables["sim-commands"],
            section("KEYS", tables["prompt-keys"]),
            section("DIALECTS", dialects()),
            section("RECORDING", paragraph(RECORDING) + tagged(DIRECTIONS), paragraph(PICTURE)),
            section("EXIT STATUS", tables["exits"]),
            section("ENVIRONMENT", tagged(ENVIRONMENT)),
            section(
                "EXAMPLES",
                example("A guest that hangs, in no time:", "hmp --clock warp -c 'sim hang' -c 'info balloon'"),
                example("A transcript to read:", "hmp --echo --clock warp -c 'balloon 512' -c 'info balloon'"),
                example(
                    "A script recorded, and a picture of it:",
                    "hmp --clock warp --record a.cast a.hmp\nhmp-cast2svg a.cast a.svg",
                ),
                example(
                    "A check of a running VM's guest:", "hmp --attach unix:qmp.sock --fail-stale -c 'info balloon'"
                ),
                example("A QEMU for the tests of a tool:", "hmp --headless --guest slow,delay=2 --qmp unix:qmp.sock"),
            ),
            section("NOTES", paragraph(EMULATED)),
            section("SEE ALSO", ".BR qemu-system-x86_64 (1),\n.BR socat (1)\n"),
        ]
    )


def own_keys() -> str:
    """Return the keys of single guests."""
    rows = [(f"{guest} {key}", help) for guest, key, help in hmp_tables.own_keys().rows]
    return tagged(hmp_tables.Table(("key", "meaning"), rows))


def dialects() -> str:
    """Return the dialects without their matrix."""
    return tagged(hmp_tables.Table(("dialect", ""), [row[:2] for row in hmp_tables.dialects().rows]))


def example(what: str, typed: str) -> str:
    """Return a command with a line about it."""
    return f"{text(what)}\n.PP\n.EX\n.in +4n\n{_escape(typed)}\n.in\n.EE\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
