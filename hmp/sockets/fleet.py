"""Many machines in one process, each with its own clock, seed and sockets: --count N, and the machines of tests."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import resource
import signal

from device.errors import MisuseError
from device.machine.events import Ended
from hmp import OK
from hmp.addresses import Address
from hmp.aiolines import first
from hmp.config import NUMBER, Config, make_machine
from hmp.drive import MachineDriver
from hmp.monitor import UsageError
from hmp.monitor.emulated import emulated
from hmp.pipe import Front, clean_end, report_ends
from hmp.sockets.listeners import Listener, listen, raise_file_limit
from hmp.sockets.server import SPARE_DESCRIPTORS, Server
from hmp.sockets.service import prepare, ready

_PER_MACHINE = 2
"""Descriptors of a machine itself: its memory, which Python's mmap opens a second time."""


def check_descriptors(machines: int, addresses: int, *, files: int = 0) -> None:
    """Raise UsageError if this process may not open enough files for so many machines. Each has `addresses` sockets and
    `files` log files.

    Call it before any machine is made, so that nothing has to be undone.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        # A new descriptor gets the lowest free number, so this is about how many are in use.
        with open(os.devnull) as lowest:
            used = lowest.fileno()
    except OSError:
        used = limit
    needed = used + machines * (_PER_MACHINE + addresses + files) + min(SPARE_DESCRIPTORS, limit // 8)
    if limit != resource.RLIM_INFINITY and needed > limit:
        raise UsageError(
            f"too few open files for {machines} more with {addresses} sockets each: {needed} are needed, "
            f"this process may have {limit} (ulimit -n)"
        )


def numbered(config: Config, number: int) -> Config:
    """Return the options of machine `number`. Raises UsageError for an address that it cannot use."""
    # A shallow copy: what differs is replaced below, the rest is shared and not changed.
    made = copy.copy(config)
    # Else all modelled guests would do the same at the same time.
    made.seed = config.seed + number
    for name in ("name", "snapshot_dir", "log"):
        value = getattr(config, name)
        if value is not None:
            setattr(made, name, value.replace(NUMBER, str(number)))
    made.addresses = []
    for address in config.addresses:
        each = Address(address.kind, address.spec.replace(NUMBER, str(number)))
        each.host_files = address.host_files
        made.addresses.append(each)
    return made


class Member:
    """A machine with its sockets, served while `serve` runs. Close it if `serve` never runs."""

    _closed = False

    def __init__(self, config: Config) -> None:
        """Make the machine and its sockets, or neither. Raises UsageError, which says what is not possible."""
        self.config = config
        self.listeners: list[Listener] = []
        try:
            self.machine = make_machine(config)
        except MisuseError as error:
            raise UsageError(str(error)) from None
        try:
            self.listeners = listen(config.addresses, allow_remote=config.allow_remote)
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Accept clients, within the running loop. The machine starts with `serve`."""
        self.driver = MachineDriver(self.machine, asyncio.get_running_loop())
        self.driver.start()
        self.server = Server(self.machine, self.driver, self.listeners, self.config.dialect)
        self.server.start()

    async def serve(self) -> None:
        """Wait for the clients of `wait` addresses, run the machine until it ends, and close it."""
        machine, over = self.machine, asyncio.Event()
        machine.subscribe(lambda event: over.set() if isinstance(event, Ended) else None)
        try:
            if any(each.address.wait for each in self.listeners):
                # A client of another address may end the machine while it waits.
                await first(self.server.clients_came(), over.wait())
            if not machine.over:
                machine.start(paused=self.config.paused)
                self.driver.reschedule()
                await over.wait()
        finally:
            # Does nothing if the machine has ended by itself.
            machine.quit(reason="host-ui")
            await self.server.stop()
            self.driver.stop()
            self.close()

    def close(self) -> None:
        """Close the machine and its sockets. Further calls do nothing."""
        if self._closed:
            return
        self._closed = True
        self.machine.close()
        for each in (*self.listeners, emulated(self.machine).log):
            if each is not None:
                each.close()


class Fleet(Front):
    """Serves `--count` machines until the last of them has ended, or a signal comes."""

    _status = OK

    def run(self) -> int:
        """Return the exit status. Raises UsageError if not all machines can be made; then none is left."""
        # A process for each machine would take 50 MB each; here all share one process and one loop.
        count, end = self.config.count or 1, clean_end()
        raise_file_limit()
        check_descriptors(count, len(self.config.addresses), files=self.config.log is not None)
        self._members: list[Member] = []
        try:
            for number in range(count):
                self._members.append(Member(numbered(self.config, number)))
            end.allow()
            with asyncio.Runner() as loops:
                loops.run(self._serve())
            return self._status
        finally:
            for member in self._members:
                member.close()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        prepare(loop, self._signalled)
        gc.freeze()  # see Serving.serve
        gc.set_threshold(5_000, 10, 10)
        for member in self._members:
            member.start()
            report_ends(member.machine)
        ready(self._members[0].listeners, f" count={len(self._members)}")
        await asyncio.gather(*[member.serve() for member in self._members])

    def _signalled(self, number: int) -> None:
        self._status = OK if number == signal.SIGTERM else 128 + number
        for member in self._members:
            member.machine.quit(reason="host-signal")
