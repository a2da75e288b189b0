"""The start of hmp: chooses the front end and the exit status. It imports only what that front end needs."""

from __future__ import annotations

import gc
import os
import sys

from hmp import FAILED, OK, USAGE
from hmp.streams import guarded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hmp.config import Config
    from hmp.pipe import Front


def main() -> int:
    """Run hmp with the command line of this process. Returns the exit status, or ends the process with it."""
    # With Python's default the collector takes a millisecond of the start, although nearly all objects stay.
    gc.set_threshold(50_000, 20, 20)
    # Nothing here speaks TLS, and asyncio does without OpenSSL. Its import took 43 ms of processor time with it and 36
    # without, and 19.2 and 14.8 MB of memory (medians of 20, Python 3.11).
    sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]
    program = os.path.basename(sys.argv[0])
    qemu = program == "hmp-qemu" or program.startswith("qemu-system-")
    argv = sys.argv[1:]
    status = guarded(lambda: run(argv, qemu=qemu), program if qemu else "hmp", FAILED if qemu else USAGE)
    if "asyncio" not in sys.modules:
        # On the piped path nothing is left to do: all output is written, and the kernel frees the rest. The normal
        # end of the interpreter would take a sixth of the time that a piped command adds to bare Python.
        os._exit(status)
    return status


def run(argv: list[str], *, qemu: bool = False) -> int:
    """Run the command line, with `qemu` that of QEMU.

    Raises UsageError, UnreadableError, KeyboardInterrupt, and OSError (see STDOUT).
    """
    asked = os.environ.get("_HMP_QEMU_COMPLETE" if qemu else "_HMP_COMPLETE")  # a shell asks for completions
    if asked:
        from hmp import options
        from hmp.qemu import table
        from hmp.shells import complete

        # Before any option is read: the shell asks by running the program with a variable set.
        return complete((table if qemu else options).command(), asked)
    from hmp.config import Config

    config: Config | str | None = Config()
    if qemu:
        from hmp.qemu.command_line import read

        config = read(argv, os.environ)
    elif argv:  # without options not even click is imported
        from hmp.options import parse

        config = parse(argv)
    if isinstance(config, Config):
        return choose(config).run()
    if config is not None:
        sys.stdout.write(config)
    return OK


def choose(config: Config) -> Front:
    """Return the front end for these options, stdin and stdout. Raises UsageError for options that do not fit."""
    if config.count is not None:
        # Each front end is imported here only when it is chosen.
        from hmp.sockets.fleet import Fleet

        return Fleet(config)
    # Both have to be terminals: if input or output is a pipe or a file, no person edits lines.
    terminal = os.isatty(0) and os.isatty(1)
    given = config.scripted or config.headless or config.stdio
    # With -i a person types after the scripts; with no script at once.
    typed = config.typed = terminal and (config.interactive or not given)
    if not typed and (config.interactive or not given):
        config.sources.append(("<stdin>", 0))
    if config.record is not None:
        from hmp.recording.record import check

        check(config, typed=terminal and not given)
    serving = None
    if config.addresses or config.headless or config.exit_with_parent:
        from hmp.sockets.service import Serving

        serving = Serving(config)
    if typed:
        if config.record is not None:
            from hmp.recording.recorder import Recorded

            return Recorded(config, serving)
        from hmp.terminal.app import Typed

        return Typed(config, serving)
    if config.record is not None:
        from hmp.recording.player import Played

        return Played(config)
    if serving is not None:
        from hmp.sockets.service import Served

        return Served(config, serving)
    from hmp.pipe import Piped

    return Piped(config)
