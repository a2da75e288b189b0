"""What all front ends share, and the plainest of them: pipes, scripts and -c, with no prompt and no escape codes."""

from __future__ import annotations

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
        """What serves clients inside a loop."""

        async def clients_came(self) -> None:
            """Return once the clients came that are waited for."""

        async def stdio_ended(self) -> None:
            """Return once a client on stdin and stdout is gone."""

        async def stop(self) -> None:
            """Let them go."""

    class Serving(Protocol):
        """What a front needs of hmp.sockets, which says what each means."""

        def listen(self) -> None:
            """Make the sockets."""

        def close(self) -> None:
            """Take them away."""

        def serve(self, machine: Machine, driver: MachineDriver) -> Server:
            """Serve clients in the running loop."""
            ...


_LONGEST_POLL = (1 << 31) - 1
"""ms that poll() takes; a statistics poll may be due in a century, and waking up early does no harm."""


def catching_up(machine: Machine) -> Callable[[], object] | None:
    """Return what to call before a line runs, so that what is due by then is done; None where time stands still."""
    return None if machine.clock.simulated else machine.step


def wait(machine: Machine, reply: Reply) -> None:
    """Wait for a suspended reply, with poll(). Returns early when the machine ends."""
    while reply.pending and not machine.over:
        if machine.clock.warps:
            if not machine.step(jump=True):
                return  # no timer left
        else:
            descriptors, due = machine.wait_for()
            poll_once([-1, *descriptors], due, machine)


def wait_for_input(machine: Machine, descriptor: int) -> None:
    """Wait until `descriptor` has something, with poll(), running the machine meanwhile where time is real."""
    while not machine.clock.simulated and not machine.over:
        watched, due = machine.wait_for()
        if due is None and not watched:
            return  # nothing to do but block in read()
        if poll_once([descriptor, *watched], due, machine):
            return


def poll_once(descriptors: list[int], due: int | None, machine: Machine) -> bool:
    """Wait for one of `descriptors` or host time `due`, then do what is due; returns whether the first was ready.

    All but the first belong to the guest. The first may be -1 for none.
    """
    import select

    poller = select.poll()
    for descriptor in descriptors:
        if descriptor >= 0:
            poller.register(descriptor, select.POLLIN)
    timeout = None if due is None else min(max(0, -((machine.clock.now() - due) // 1_000_000)), _LONGEST_POLL)
    ready = [descriptor for descriptor, _ in poller.poll(timeout)]
    machine.step()
    return descriptors[0] in ready


class Runner:
    """Runs the lines of sources on a monitor, prints through `out`, and keeps the score, which is `status`."""

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

        Yields what a front has to wait for in its own way before it takes the next step: a source that is to be read,
        or a reply that is pending. Raises OSError when stdout cannot be written.
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
        """Whether to run no more lines: the machine ended, or a command failed and that is to stop us."""
        return self.machine.over or (self._failed and self._config.exit_on_error)

    def begin(self, line: str | None) -> Reply:
        """Run a line, None for one that is too long. The reply is to be passed to `end` once it is complete."""
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
        """Print a complete reply and note how it went."""
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
        """Note whether a reply, shown by somebody else, had old statistics."""
        self._stale |= reply.stale

    def _fail(self, what: str) -> None:
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
    """Run `sources`, waiting with poll(). Raises OSError when stdout cannot be written."""
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
    """A way to use hmp: `run` makes the machine and what else the options ask for, and takes it apart behind `_use`."""

    machine: Machine
    monitor: Monitor
    runner: Runner
    tells = True
    """Whether stderr says what nobody asked for; a person at the prompt is told there."""

    def __init__(self, config: Config, serving: Serving | None = None) -> None:
        self.config = config
        self.serving = serving

    def run(self) -> int:
        """Return the exit status. Raises UsageError, UnreadableError, KeyboardInterrupt, and OSError (see STDOUT)."""
        config, end = self.config, None
        if config.attach is not None:
            return self._run_attached()
        try:
            guest = make_guest(config.guest)
            if self.serving is not None or guest.real:
                end = clean_end()
            machine = self.machine = make_machine(config, guest)
        except MisuseError as error:
            raise UsageError(str(error)) from None
        try:
            if self.serving is not None:
                self.serving.listen()
            if end is not None:
                end.allow()
            monitor = self.monitor = Monitor(machine, DIALECTS[config.dialect])
            monitor.alone = self.serving is None
            monitor.host_files = True  # who typed the command line can start programs anyway
            self.runner = Runner(machine, monitor, config)
            if self.tells:
                self._tell()
            status = self._use()
            return self.runner.status if status is None else status
        finally:
            machine.close()
            if self.serving is not None:
                self.serving.close()

    def _run_attached(self) -> int:
        """The same with a machine that runs elsewhere. Raises ConnectError too."""
        from hmp.attach.front import attach

        end = clean_end()
        attached, monitor = attach(self.config)
        self.monitor = monitor
        machine: Any = attached  # it has what front ends ask of a machine, and is none
        self.machine = machine
        try:
            if self.serving is not None:
                self.serving.listen()
            end.allow()
            if self.config.save_replies is not None:
                from hmp.attach.replies import save

                save(attached, self.config.save_replies)
            self.runner = Runner(self.machine, self.monitor, self.config)
            status = self._use()
            if attached.failure:
                if not monitor.told:
                    complain(attached.failure)
                return FAILED
            return self.runner.status if status is None else status
        finally:
            attached.close()
            if self.serving is not None:
                self.serving.close()

    def sources(self) -> list[Source]:
        """Return what the command line says to run."""
        return [Source(*each) for each in self.config.sources]

    def _use(self) -> int | None:
        """Start the machine and let it be used; returns the exit status, None for the runner's."""
        raise NotImplementedError

    def _tell(self) -> None:
        if self.serving is not None or self.machine.guest.real:
            tell_of_ends(self.machine)
            return

        # Not before: a listener would cost every answer of a modelled guest something.
        def real_guest_coming() -> Callable[[], object]:
            self.monitor.before_real_guest = None
            tell_of_ends(self.machine)
            return clean_end().allow

        self.monitor.before_real_guest = real_guest_coming


class Piped(Front):
    """Runs what comes from pipes and scripts, without a loop."""

    def _use(self) -> None:
        self.machine.start(paused=self.config.paused)
        run(self.runner, self.sources())


def clean_end() -> CleanEnd:
    """Let SIGTERM and SIGHUP leave nothing behind from now on; see CleanEnd."""
    from hmp.termination import CleanEnd

    return CleanEnd()


def tell_of_ends(machine: Machine) -> None:
    """Say on stderr that a real guest or its driver is not there, or that a client was hung up on."""
    from device.machine.events import ClientRefused, DriverMissing, GuestGone
    from hmp.ratelimit import GONE_BURST, GONE_SECONDS, RateLimit

    ends: dict[type[Event], str] = {
        GuestGone: "the guest is gone",
        DriverMissing: "the guest's driver does not come up",
        ClientRefused: "hung up on a client",
    }
    limit = RateLimit(GONE_SECONDS, burst=GONE_BURST)

    def tell(event: Event) -> None:
        words = ends.get(type(event))
        if words is not None and limit.admit() is not None:
            complain(escape(f"{words}: {event.data['why']}"))

    machine.subscribe(tell)
