"""Connects a front end to a running virtual machine."""

from __future__ import annotations

import time
from typing import Any

from device.clock import SECOND, Clock
from hmp.attach.link import Link, LinkError, QmpError, SocketLink
from hmp.attach.machine import Attached
from hmp.attach.monitor import AttachedMonitor, Words
from hmp.config import Config
from hmp.monitor import ConnectError
from hmp.monitor.dialects import DIALECTS, Dialect
from hmp.monitor.monitor import History

ATTACH_LIMIT = 10 * SECOND
"""The most time (ns) for all queries at the start."""


def attach(config: Config) -> tuple[Attached, AttachedMonitor]:
    """Connect to the machine of --attach. Returns the machine and a monitor for it.

    Raises ConnectError with one line that gives the reason.
    """
    place = config.attach
    assert place is not None  # noqa: S101
    clock = Clock("real", time.monotonic_ns, time.time_ns)
    prompt = config.typed or config.record is not None  # a recorded script is typed at a prompt too
    # Events are wanted only if someone gets them: a person at the prompt, or clients on sockets.
    wanted = prompt or bool(config.addresses)
    link: Link
    if place.scheme == "libvirt":
        # Imported here, because it imports subprocess and an XML parser, which only libvirt needs.
        from hmp.attach.virsh import VirshLink

        link = VirshLink(clock, place, events=wanted)
    else:
        link = SocketLink(clock, place)
    machine = Attached(link, clock, name=place.short, timeout=config.timeout, hold=place.holds(wanted=wanted))
    words = Words()
    try:
        machine.ask(machine.query_vm(whole=prompt), ATTACH_LIMIT)
        if prompt:
            # Completion needs the commands of this QEMU, whatever its version.
            words.learn(*machine.ask(machine.help(), ATTACH_LIMIT))
    except BaseException as error:  # Ctrl-C too: virsh must not go on without us
        link.close()
        if isinstance(error, (QmpError, LinkError)):
            # Errors of QEMU do not name the VM.
            raise ConnectError(f"{link.name}: {error}" if isinstance(error, QmpError) else str(error)) from None
        raise
    machine.offers = words.complete

    def make(_: Any, dialect: Dialect, history: History | None = None) -> AttachedMonitor:
        made = AttachedMonitor(machine, dialect, history)
        made.allowed = config.allow_disruptive
        return made

    # Clients on sockets get the same kind of monitor as the prompt.
    machine.front.make_monitor = make
    if config.addresses:
        from hmp.attach.relay import RelaySession

        def session(_: Any, *given: Any, **options: Any) -> RelaySession:
            return RelaySession(machine, config.allow_disruptive, *given, **options)

        machine.front.make_session = session
    monitor = make(machine, DIALECTS[config.dialect])
    monitor.reports_stale = config.fail_stale  # scripts need the reason on stderr
    return machine, monitor
