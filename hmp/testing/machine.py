"""A machine for a test: its addresses, its controls, and what its clients sent and got."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import time
import warnings
from collections.abc import Coroutine, Iterable, Iterator
from datetime import datetime
from typing import Any, TypeVar

from device.clock import SECOND, SimulatedClock
from device.errors import MisuseError
from device.machine.events import Ended, Event
from hmp.config import Config
from hmp.log import Entry, Log
from hmp.monitor import UsageError
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.emulated import emulated
from hmp.monitor.monitor import Monitor
from hmp.monitor.registry import TABLE
from hmp.options import parse
from hmp.sockets.fleet import Member, check_descriptors
from hmp.testing.host import Host

T = TypeVar("T")

PATIENCE = 10.0
"""The default seconds of real time to wait for a line, or for a command of a client."""

STANDSTILL = 10
"""How many reads of the guest's statistics at one moment of the clock are worth a warning."""

_GIVE = "give the client vm.time and vm.advance in place of time.monotonic and time.sleep"

_OURS = {"monitor", "qmp", "headless", "count", "command", "interactive", "record", "size", "overwrite", "help",
         "version", "list_guests", "exit_on_error", "echo", "fail_stale", "allow_remote",
         "exit_with_parent", "attach", "allow_disruptive", "save_replies"}  # fmt: skip
"""Options of the program that have no meaning here."""

_host = Host()
_open: dict[FakeQemu, None] = {}


class SimError(Exception):
    """A line of the monitor failed. The message is the monitor's text."""


class StandstillWarning(UserWarning):
    """A client polled the guest's statistics on a clock that stood still, so the guest had no time to report."""


def _seconds(name: str, value: float) -> float:
    """Return `value`. Raises MisuseError if it is not a number, or too large for a clock."""
    try:
        if -(1 << 63) < value < 1 << 63:  # false for nan
            return value
    except TypeError:
        pass
    raise MisuseError(f"{name}: {value!r} is not a number of seconds")


def _read(options: dict[str, object], addresses: list[str]) -> Config:
    """Read options as the program does. Raises MisuseError, which names the option that is wrong."""
    arguments = []
    # Switches go last: an option that needs a value must not take the next one for it.
    for name, value in sorted(options.items(), key=lambda option: option[1] is True):
        if name in _OURS:
            raise MisuseError(f"{name}: not an option of a machine in a test")
        if value is not False and value is not None:
            flag = f"--{name.replace('_', '-')}"
            arguments.append(flag if value is True else f"{flag}={value}")
    config = parse([*addresses, *arguments])
    assert config is not None  # noqa: S101 - only --help and the like are answered at once
    return config


class FakeQemu:
    """A running machine whose monitors listen. Close it, or use it as a context manager.

    Clients connect to `qmp` and `monitor`: paths, or (host, port) with `tcp=True`. The options are those of hmp, with
    underscores: memory="2G", guest="slow,delay=7", seed=3, paused=True, ... The default dialect is qemu, and the
    default clock is warp. The warp clock jumps while a client waits for the guest; it suits clients that block in the
    thread of the test. clock="manual" moves only with `advance`, for clients in other threads and processes.
    clock="real" is real time, for clients that poll and sleep by a clock of their own. The wall clock of the first two
    begins at `start` (seconds since 1970, or a datetime; default: now) and moves with simulated time.

    Raises MisuseError with one line for wrong options, and if this process may not open enough files. The limit on open
    files is not changed.
    """

    qmp: Any
    monitor: Any

    def __init__(self, *, tcp: bool = False, start: float | datetime | None = None, **options: object) -> None:
        self._process = os.getpid()
        self._member: Member | None = None
        self._served: asyncio.Future[None] | None = None
        self._entered = self._closed = False
        try:
            # Not raise_file_limit(): the process and its limit belong to the user's tests.
            check_descriptors(1, 2)
            begin = _host.enter().replace(",", ",,")
            self._entered = True
            places = ["tcp:127.0.0.1:0"] * 2 if tcp else [f"unix:{begin}m", f"unix:{begin}q"]
            config = _read(
                {"dialect": "qemu", "clock": "warp"} | options, [f"--monitor={places[0]}", f"--qmp={places[1]}"]
            )
            if start is not None and config.clock == "real":
                raise MisuseError("start: the real clock has a time of its own")
            begun = start.timestamp() if isinstance(start, datetime) else start
            if begun is not None:
                _seconds("start", begun)
            self._member = Member(config)
            self._make(self._member, begun)
        except UsageError as error:
            self.close()
            raise MisuseError(str(error)) from None
        except BaseException:
            self.close()
            raise
        _open[self] = None

    def _make(self, member: Member, start: float | None) -> None:
        machine = self._machine = member.machine
        self.monitor, self.qmp = [
            each.socket.getsockname()[:2] if each.socket and each.address.scheme == "tcp" else each.address.host
            for each in member.listeners
        ]
        if isinstance(machine.clock, SimulatedClock):
            machine.clock.epoch = time.time_ns() if start is None else round(start * SECOND)
        self._monitor = Monitor(machine, DIALECTS[member.config.dialect])
        # A client, or `advance`, can move the manual clock while this monitor waits.
        self._monitor.alone = False
        self._monitor.host_files = True  # the code of a test can open files itself
        self._entries: list[Entry] = []
        self._reads = 0
        self._read_at = -1.0
        self._standstill = ""
        self._kinds = {each.name: each.address.kind for each in member.listeners}
        front = emulated(machine)
        front.log = front.log or Log(None, machine.clock)
        front.log.on_entry = self._logged
        self._waits: set[asyncio.Future[None]] = set()
        _host.run(self._start(member))

    async def _start(self, member: Member) -> None:
        self._news = asyncio.Event()
        member.start()
        self._machine.subscribe(self._on_event)
        # The machine runs in this task until it ends or close() ends it.
        self._served = asyncio.ensure_future(member.serve())
        await asyncio.sleep(0)  # let the task start the machine

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Ended):
            for wait in self._waits:
                if not wait.done():
                    wait.set_result(None)

    def _logged(self, entry: Entry) -> None:
        self._entries.append(entry | {"monitor": self._kinds[entry["monitor"]]})
        self._news.set()
        if not self._standstill and _reads_statistics(entry):
            self._count_read(entry["t"])

    def _count_read(self, now: float) -> None:
        machine, device = self._machine, self._machine.device
        if machine.clock.simulated and device is not None and device.stats.poll_interval:
            self._reads = self._reads + 1 if now == self._read_at else 1
            self._read_at = now
            if self._reads == STANDSTILL:
                self._standstill = (
                    f"guest statistics were read at least {STANDSTILL} times while the {machine.clock.name} clock "
                    f"stood still at {now:.3f} s, so the guest had no time to report: {_GIVE}, or make the machine "
                    'with clock="real"'
                )

    # Control.

    def sim(self, line: str, *, timeout: float = PATIENCE) -> str:
        """Run a line of the monitor and return its output. Topics of `sim` do not need that word: "hang".

        Waits for the answer, which takes no time on the warp clock. Raises SimError if the line fails, and TimeoutError
        after `timeout` seconds of real time, for example on a manual clock that nothing moves.
        """
        if not isinstance(line, str):
            raise MisuseError(f"sim: {line!r} is not a line of text")
        first = line.split(maxsplit=1)[0] if line.strip() else ""
        if first in (TABLE["sim"].topics or ()):
            line = f"sim {line}"
        return self._run(self._execute(line), f"'{line}' was not answered", timeout)

    async def _execute(self, line: str) -> str:
        driver = self._members().driver
        if self._machine.over:
            raise SimError("the machine has ended")
        reply = self._monitor.execute(line)
        driver.reschedule()
        if reply.pending:
            released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waits.add(released)
            try:
                # `released` ends the wait if the machine ends first.
                if not await driver.wait(reply, released):
                    raise SimError("the machine ended before it was answered")
            finally:
                self._waits.discard(released)
        if reply.failed:
            raise SimError(reply.text.strip())
        return reply.text

    def advance(self, seconds: float, *, timeout: float = PATIENCE) -> None:
        """Move a simulated clock on by so many host seconds; everything that is due in between happens.

        Raises SimError if `seconds` is not possible, and MisuseError on the real clock and for what is not a number.
        """
        if not self._machine.clock.simulated:
            raise MisuseError(
                "the real clock cannot be moved: have the client wait less (a shorter timeout), or make the machine "
                f'with clock="warp" and {_GIVE}'
            )
        # By the command `sim sleep`, because it goes in steps, so that clients get their turn in between.
        self.sim(f"sleep {_seconds('advance', seconds):.9f}", timeout=timeout)

    def time(self) -> float:
        """Return the wall clock in seconds since 1970. A test can use it in place of time.time."""
        return self._machine.clock.wall() / SECOND

    # What clients sent and got.

    @property
    def log(self) -> list[Entry]:
        """What clients have sent and got so far, in the form of --log; a message comes before its reply.

        A list of dicts with `t` (host clock, s), `wall` (s), `monitor` (qmp or monitor), `client` (its number), `what`
        (connect, in, out, event, disconnect), and `data`, or `raw` if that is not a JSON object.
        """
        return list(self._entries)

    @property
    def commands(self) -> list[dict[str, Any]]:
        """The QMP messages that clients have sent so far."""
        return [each["data"] for each in self._entries if each["what"] == "in" and "data" in each]

    def wait_for(self, command: str, count: int = 1, *, timeout: float = PATIENCE) -> None:
        """Wait until clients have sent the QMP command `count` times in all. Use it before you move a clock.

        A command counts when it begins. If an earlier command of its client still waits for the guest, it counts after
        that one is answered. Raises TimeoutError after `timeout` seconds of real time.
        """
        self._run(self._until(command, count), f"no client sent '{command}'" + f" {count} times" * (count > 1), timeout)

    async def _until(self, command: str, count: int) -> None:
        while sum(each.get("execute") == command for each in self.commands) < count:
            self._news.clear()
            await self._news.wait()

    def transcript(self) -> str:
        """Return the log in a readable form, one line for each entry; what comes again and again is folded."""
        return "\n".join([*_folded(self._entries), *filter(None, [self._standstill])])

    # The end.

    def close(self) -> None:
        """End the machine and disconnect its clients. Further calls do nothing."""
        if self._closed or self._process != os.getpid():
            return
        self._closed = True
        _open.pop(self, None)
        member = self._member
        try:
            if member is not None:
                _host.run(self._stop(member))
        finally:
            if member is not None:
                member.close()
            if self._entered:
                _host.leave()
        if member is not None and self._standstill:
            # Not where it is noticed: that is in the serving thread, and a warning that is made an error would end it.
            warnings.warn(self._standstill, StandstillWarning, stacklevel=2)

    async def _stop(self, member: Member) -> None:
        member.machine.quit()
        if self._served is not None:
            await self._served

    def __enter__(self) -> FakeQemu:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _members(self) -> Member:
        if self._closed or self._member is None or self._process != os.getpid():
            raise MisuseError("the machine was closed" if self._closed else "the machine belongs to another process")
        return self._member

    def _run(self, work: Coroutine[Any, Any, T], late: str, timeout: float) -> T:
        try:
            self._members()
        except MisuseError:
            work.close()
            raise
        try:
            return _host.run(work, timeout)
        except TimeoutError:
            still = "; the manual clock stands still until advance()" if self._machine.clock.name == "manual" else ""
            raise TimeoutError(f"{late} within {timeout:g} s of real time{still}") from None


def _reads_statistics(entry: Entry) -> bool:
    data = entry.get("data", {})
    return entry["what"] == "in" and data.get("execute") == "qom-get" and "'guest-stats'" in str(data.get("arguments"))


def _folded(entries: list[Entry]) -> Iterator[str]:
    """Yield a line for each entry. What comes again and again, a message or a command and its reply, is there once."""
    same = [
        [
            *(each.get(key) for key in ("monitor", "client", "what", "raw")),
            each.get("data", {}) | {"id": 0, "timestamp": 0},
        ]
        for each in entries
    ]
    begin = 0
    while begin < len(same):
        # A pair begins with a command. A reply and the next command would repeat too, but belong to two pairs.
        for size in (1, 2) if entries[begin]["what"] == "in" else (1,):
            end = begin + size
            while same[end : end + size] == same[begin : begin + size]:
                end += size
            if end > begin + 2 * size:
                break
        else:
            size, end = 1, begin + 1
        for each in entries[begin : begin + size]:
            what = json.dumps(each["data"]) if "data" in each else repr(each["raw"]) if "raw" in each else ""
            yield f"{each['t']:10.3f} {each['monitor']} {each['client']} {each['what']:10} {what}".rstrip()
        if again := (end - begin) // size - 1:
            yield f"{entries[end - 1]['t']:10.3f} ... {again} times the same"
        begin = end


def close_all(machines: Iterable[FakeQemu]) -> None:
    """Close all machines, even if one of them fails. Then raise the first error."""
    failures = []
    for machine in list(machines):
        try:
            machine.close()
        except Exception as error:
            failures.append(error)
    if failures:
        raise failures[0]


def _forked() -> None:
    _open.clear()
    _host.forget()


# A test that forgot to close a machine must not leave a socket behind.
atexit.register(lambda: close_all(_open))
os.register_at_fork(after_in_child=_forked)
