"""Where hmp starts: picks the front end and the exit status. Imports only what the way of use needs."""

from __future__ import annotations

import gc
import os
import sys

from device.errors import MisuseError
from hmp.monitor.errors import UnreadableError, UsageError
from hmp.monitor.escape import escape
from hmp.streams import STDOUT, complain, fill_standard_descriptors, naming_stdout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from device.machine.machine import Machine
    from hmp.config import Config
    from hmp.recording.recorder import Recorder
    from hmp.sockets.listeners import Listener
    from hmp.termination import CleanEnd


def main() -> int:
    """Run hmp with the command line of this process; returns the exit status, or ends the process with it."""
    # Collecting as often as Python does by default costs a millisecond of start-up: nearly all we make lives on.
    gc.set_threshold(50_000, 20, 20)
    status = _run_guarded(sys.argv[1:])
    if "asyncio" not in sys.modules:
        # On the piped path nothing is left to do: what was printed is written, the kernel takes the rest back. The
        # interpreter's own way out would cost a sixth of all that a piped command adds to bare Python.
        os._exit(status)
    return status


def _run_guarded(argv: list[str]) -> int:
    """Run, with every way to end made a status and at most one line."""
    try:
        fill_standard_descriptors()
        status = run(argv)
        if sys.stdout is not None:  # as it is where stdout was closed; click prints through it
            with naming_stdout():
                sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:  # by a signal
        return int(end.code or 0)
    except UsageError as error:
        complain(str(error))
        return 2
    except UnreadableError as error:
        complain(str(error))
        return 1
    except OSError as error:
        reason = error.strerror or str(error)
        if error.filename != STDOUT:
            complain(f"cannot go on: {reason}" + (f": '{error.filename}'" if error.filename else ""))
            return 1
        if isinstance(error, BrokenPipeError):
            return _silence(141)
        complain(f"cannot write output: {reason}")
        return _silence(1)


def _silence(status: int) -> int:
    """Let nothing be flushed to a stdout that is gone when the interpreter ends."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError:
        pass
    return status


def run(argv: list[str]) -> int:
    """Do what the arguments say. Raises UsageError, UnreadableError, KeyboardInterrupt, and OSError (see STDOUT)."""
    from hmp.config import Config, make_machine

    config = Config()
    asked = os.environ.get("_HMP_COMPLETE")  # a shell wants to know what can be typed next
    if asked:
        from hmp.options import complete

        return complete(asked)
    if argv:  # without options even click stays unimported
        from hmp.options import parse

        parsed = parse(argv)
        if parsed is None:
            return 0
        config = parsed
    typed = not config.scripted and not config.headless and os.isatty(0) and os.isatty(1)
    if config.record is not None:
        from hmp.recording.record import check

        check(config, typed=typed)
    ends: list[CleanEnd] = []
    if config.addresses:
        ends.append(_clean_end())
    try:
        machine = make_machine(config, real_guest_coming=lambda: ends.append(_clean_end()))
    except MisuseError as error:
        raise UsageError(str(error)) from None
    listeners: list[Listener] = []
    try:
        if config.addresses:
            from hmp.sockets.listeners import listen

            listeners = listen(config.addresses, allow_remote=config.allow_remote)
        for end in ends:
            end.allow()
        return _serve(config, machine, listeners, typed=typed)
    finally:
        machine.close()
        for listener in listeners:
            listener.close()


def _clean_end() -> CleanEnd:
    from hmp.termination import CleanEnd

    return CleanEnd()


def _tell_of_end(machine: Machine) -> None:
    """Say on stderr what nobody asked for: a real guest or its driver is not there, or a client was hung up on.

    A person at the prompt is told there.
    """
    from hmp.spacing import GONE_BURST, GONE_SPACING, Spacing

    words = {
        "GUEST_GONE": "the guest is gone",
        "DRIVER_MISSING": "the guest's driver does not come up",
        "CLIENT_REFUSED": "hung up on a client",
    }
    spacing = Spacing(GONE_SPACING, burst=GONE_BURST)

    def tell(name: str, data: Mapping[str, object]) -> None:
        if name in words and spacing.untold() is not None:
            complain(escape(f"{words[name]}: {data.get('why')}"))

    machine.subscribe(tell)


def _serve(config: Config, machine: Machine, listeners: list[Listener], *, typed: bool) -> int:
    from hmp.monitor.dialects import DIALECTS
    from hmp.monitor.monitor import Monitor
    from hmp.pipe import Runner

    monitor = Monitor(machine, DIALECTS[config.dialect])
    monitor.sole = not listeners
    monitor.host_files = True  # who typed the command line can start programs anyway
    runner = Runner(machine, monitor, echo=config.echo, stop_on_error=config.exit_on_error)
    sources = config.sources if config.scripted or config.headless else [("<stdin>", 0)]
    if typed or (config.interactive and os.isatty(0) and os.isatty(1)):
        from hmp.terminal.app import run as run_terminal

        services = []
        if listeners:
            from hmp.sockets.service import beside

            services.append(
                beside(machine, listeners, runner, config.sources, dialect=config.dialect, paused=config.paused)
            )
        else:
            machine.start(paused=config.paused)
            if not runner.run(config.sources):
                return runner.status(fail_stale=config.fail_stale)

        def session(recorder: Recorder | None = None) -> int:
            scripted = bool(listeners and config.sources)
            return run_terminal(
                machine, monitor, services=services, scripted=scripted, recorder=recorder, on_reply=runner.note
            )

        if config.record is not None:
            from hmp.recording.record import record_typed

            status = record_typed(config, config.record, session)
        else:
            status = session()
        return status or runner.status(fail_stale=config.fail_stale)
    if listeners or machine.guest.real:
        _tell_of_end(machine)
    else:  # a listener would cost every answer of a modelled guest something

        def real_guest_coming() -> Callable[[], object]:
            monitor.on_real_guest = None
            _tell_of_end(machine)
            return _clean_end().allow

        monitor.on_real_guest = real_guest_coming
    if config.interactive:
        sources = [*sources, ("<stdin>", 0)]
    if listeners:
        from hmp.sockets.service import run_service

        return run_service(
            machine,
            listeners,
            runner,
            sources,
            dialect=config.dialect,
            paused=config.paused,
            headless=config.headless,
            fail_stale=config.fail_stale,
        )
    if config.record is not None:
        from hmp.recording.record import record_script

        return record_script(config, config.record, machine, runner, sources)
    machine.start(paused=config.paused)
    runner.run(sources)
    return runner.status(fail_stale=config.fail_stale)
