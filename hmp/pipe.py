"""What all front ends share, and the simplest one: pipes, scripts and -c, without a prompt or escape codes."""

from __future__ import annotations

from device.clock import MS, SECOND
from device.errors import MisuseError
from device.guest.table import make_guest
from hmp import FAILED, OK, STALE
from hmp.config import make_machine
from hmp.monitor import TOO_LONG, UnreadableError, UsageError, escape
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.monitor import Monitor, Reply
from hmp.streams import Output, Source, complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Protocol

    from device.machine.events import Event
    from device.machine.machine import Machine
    from hmp.config import Config
    from hmp.drive import MachineDriver
    from hmp.termination import CleanEnd

    class Server(Protocol):
        """Serves clients inside a loop."""

        async def clients_came(self) -> None:
            """Wait for the first client of each `wait` address."""

        async def stdio_ended(self) -> None:
            """Wait until the client on stdin and stdout is gone."""

        async def stop(self) -> None:
            """End all connections."""

    class Serving(Protocol):
        """The part of hmp.sockets.service.Serving that a front end uses."""

        def listen(self) -> None:
            """Make the sockets."""

        def close(self) -> None:
            """Close the sockets."""

        def serve(self, machine: Machine, driver: MachineDriver) -> Server:
            """Serve clients in the running loop."""
            ...


_LONGEST_POLL = (1 << 31) - 1
"""The most milliseconds that poll() takes. A statistics poll may be due in a century; waking up early does no harm."""


_EXACT = SECOND // 8
"""A longer wait (ns) is made in parts, the last of them short: Linux may end a wait late by a thousandth of it, so the
usual timeout came 5 ms late."""


def first_wait(left: int) -> int:
    """Return how long (ns) to wait at once, if something is due in `left` ns."""
    return max(0, left - (left >> 6) if left > _EXACT else left)


def catching_up(machine: Machine) -> Callable[[], object] | None:
    """Return a function to call before each line, which does what is due by then; None on simulated clocks."""
    return None if machine.clock.simulated else machine.step


def wait(machine: Machine, reply: Reply) -> None:
    """Wait for a suspended reply, with poll(). Returns earlier if the machine ends."""
    while reply.pending and not machine.over:
        if machine.clock.warps:
            # The warp clock jumps to the next timer.
            if not machine.step(jump=True):
                return  # no timer left
        else:
            descriptors, due = machine.wait_for()
            poll_once([-1, *descriptors], due, machine)


def wait_for_input(machine: Machine, descriptor: int) -> None:
    """Wait for input on `descriptor`, with poll(). On the real clock the machine runs meanwhile."""
    while not machine.clock.simulated and not machine.over:
        watched, due = machine.wait_for()
        if due is None and not watched:
            return  # the machine needs nothing: the caller can block in read()
        if poll_once([descriptor, *watched], due, machine):
            return


def poll_once(descriptors: list[int], due: int | None, machine: Machine) -> bool:
    """Wait for one of `descriptors` or the host time `due`, then step the machine. Returns whether the first was ready.

    All but the first belong to the guest. The first may be -1 for none.
    """
    import select

    poller = select.poll()
    for descriptor in descriptors:
        if descriptor >= 0:
            poller.register(descriptor, select.POLLIN)
    # Rounded up to whole milliseconds: if poll() ended before `due`, the caller would poll again and again until then.
    left = None if due is None else first_wait(due - machine.clock.now())
    timeout = None if left is None else min(-(-left // MS), _LONGEST_POLL)
    ready = [descriptor for descriptor, _ in poller.poll(timeout)]
    machine.step()
    return descriptors[0] in ready


class Runner:
    """Runs the lines of sources on a monitor and prints through `out`. `status` is the exit status so far."""

    def __init__(self, machine: Machine, monitor: Monitor, config: Config) -> None:
        self.machine = machine
        self.out = Output()
        self._monitor = monitor
        self._config = config
        self._echo = config.echo
        self._log = None if machine.front is None else machine.front.log
        self._failed = self._stale = False

    def steps(self, sources: Iterable[Source]) -> Iterator[Source | Reply]:
        """Run every line of every source, in order, until it is `over`.

        Yields what the front end has to wait for, in its own way: a source to read, or a pending reply. It yields
        nothing for a command that is answered at once, which keeps the piped path as fast as a plain loop. Raises
        OSError if stdout cannot be written.
        """
        machine, begin, end, stop = self.machine, self.begin, self.end, self._config.exit_on_error
        catch_up = catching_up(machine)
        for source in sources:
            try:
                while not (source.over or self.over):
                    yield source
                    for number, line in source.read():
                        if catch_up is not None:
                            catch_up()
                        reply = begin(line)
                        if reply.pending:
                            yield reply
                        end(source.name, number, reply)
                        if machine.over or (stop and self._failed):
                            return
            except UnreadableError as error:
                self._fail(f"{source.name}: cannot be read: {error}")

    @property
    def over(self) -> bool:
        """Whether to stop: the machine has ended, or a command failed with --exit-on-error."""
        return self.machine.over or (self._failed and self._config.exit_on_error)

    def begin(self, line: str | None) -> Reply:
        """Run a line; None stands for one that is too long. Pass the reply to `end` when it is complete."""
        if line is None:
            reply = Reply()
            reply.text, reply.failed = f"{TOO_LONG}\n", True
            return reply
        if self._echo:
            self.out.add(f"(qemu) {line}\n")
        if self._log is not None:
            self._log.add("stdio", 0, "in", line.encode("utf-8", "surrogateescape"))
        self._monitor.history.add(line)
        return self._monitor.execute(line)

    def end(self, name: str, number: int, reply: Reply) -> None:
        """Print a complete reply and note whether it failed."""
        text = reply.text
        if text:
            self.out.add(text)
            if self._log is not None:
                self._log.add("stdio", 0, "out", text.encode("utf-8", "surrogateescape"))
        if reply.failed:
            self._fail(f"{name}:{number}: command failed: {text.partition(chr(10))[0]}")
        if reply.stale:
            self._stale = True

    def note(self, reply: Reply) -> None:
        """Note whether a reply that the prompt has shown had old statistics."""
        self._stale |= reply.stale

    def _fail(self, what: str) -> None:
        # First print what came before, so that stdout and stderr are in order on a terminal.
        self._failed = True
        self.out.flush()
        complain(what)

    @property
    def status(self) -> int:
        """The exit status."""
        if self._failed:
            return FAILED
        return STALE if self._stale and self._config.fail_stale else OK


def run(runner: Runner, sources: Iterable[Source]) -> None:
    """Run `sources` and wait with poll(). Raises OSError if stdout cannot be written."""
    out, machine = runner.out, runner.machine
    try:
        for awaited in runner.steps(sources):
            out.flush()
            if isinstance(awaited, Reply):
                wait(machine, awaited)
            elif awaited.descriptor is not None:
                wait_for_input(machine, awaited.descriptor)
    finally:
        out.flush()


class Front:
    """A front end. `run` makes `machine`, `monitor`, `runner` and the sockets, calls `_use`, and closes them again."""

    machine: Machine
    monitor: Monitor
    runner: Runner
    reports_events = True
    """Whether to report events on stderr; a person at the prompt sees them there."""

    def __init__(self, config: Config, serving: Serving | None = None) -> None:
        self.config = config
        self.serving = serving

    def run(self) -> int:
        """Return the exit status.

        Raises UsageError, UnreadableError, KeyboardInterrupt, OSError (see STDOUT), and with --attach ConnectError.
        """
        config, serving, attached = self.config, self.serving, self.config.attach is not None
        end = self._attach() if attached else self._make()
        machine: Any = self.machine  # with --attach it is another class, with the methods that front ends use
        try:
            if serving is not None:
                serving.listen()
            if end is not None:
                end.allow()
            if config.save_replies is not None:
                from hmp.attach.replies import save

                save(machine, config.save_replies)
            self.runner = Runner(machine, self.monitor, config)
            if self.reports_events and not attached:
                self._report_events()
            status = self._use()
            # The end of a running QEMU is a failure of a script, even if all commands before it succeeded.
            failure = machine.failure if attached else ""
            if failure and not getattr(self.monitor, "end_reported", False):
                complain(failure)
            return FAILED if failure else self.runner.status if status is None else status
        finally:
            machine.close()
            if serving is not None:
                serving.close()

    def _make(self) -> CleanEnd | None:
        """Make the machine and its monitor. Raises UsageError."""
        try:
            guest = make_guest(self.config.guest)
            # Sockets and the processes of real guests have to be cleaned up. Without them the signals may end hmp as
            # they do by default.
            end = clean_end() if self.serving is not None or guest.real else None
            self.machine = make_machine(self.config, guest)
        except MisuseError as error:
            raise UsageError(str(error)) from None
        monitor = self.monitor = Monitor(self.machine, DIALECTS[self.config.dialect])
        monitor.alone = self.serving is None
        monitor.host_files = True  # the user of the command line can start programs anyway
        return end

    def _attach(self) -> CleanEnd:
        """Attach to a running QEMU. Raises ConnectError."""
        from hmp.attach.front import attach

        end = clean_end()
        self.machine, self.monitor = attach(self.config)  # type: ignore[assignment]
        return end

    def sources(self) -> list[Source]:
        """Return the sources of the command line."""
        return [Source(*each) for each in self.config.sources]

    def _use(self) -> int | None:
        """Start the machine and serve its users. Returns the exit status, or None for that of the runner."""
        raise NotImplementedError

    def _report_events(self) -> None:
        if self.serving is not None or self.machine.guest.real:
            report_ends(self.machine)
            return

        # Subscribe only when such a guest comes: a listener would slow down every answer of a modelled guest.
        def real_guest_coming() -> Callable[[], object]:
            self.monitor.before_real_guest = None
            report_ends(self.machine)
            return clean_end().allow

        # `sim guest uml` may bring a real guest later.
        self.monitor.before_real_guest = real_guest_coming


class Piped(Front):
    """Runs pipes, scripts and -c without an event loop."""

    def _use(self) -> None:
        self.machine.start(paused=self.config.paused)
        run(self.runner, self.sources())


def clean_end() -> CleanEnd:
    """Make SIGTERM and SIGHUP end hmp with a clean-up from now on; see CleanEnd."""
    from hmp.termination import CleanEnd

    return CleanEnd()


def report_ends(machine: Machine) -> None:
    """Report on stderr that a real guest or its driver is gone, or that a client was cut off."""
    from device.machine.events import ClientRefused, DriverMissing, GuestGone
    from hmp.ratelimit import GONE_BURST, GONE_SECONDS, RateLimit

    ends: dict[type[Event], str] = {GuestGone: "the guest is gone", ClientRefused: "hung up on a client",
                                    DriverMissing: "the guest's driver does not come up"}  # fmt: skip
    limit = RateLimit(GONE_SECONDS, burst=GONE_BURST)

    def report(event: Event) -> None:
        words = ends.get(type(event))
        if words is not None and limit.admit() is not None:
            complain(escape(f"{words}: {event.data['why']}"))

    machine.subscribe(report)
