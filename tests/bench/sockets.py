"""Monitors on unix sockets: round trips, many clients beside, pipelined commands, floods."""

from __future__ import annotations

import select
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from tests import soak
from tests.bench.programs import HMP, OTHERS, Subject, connect, folder, monitors, qemu, started
from tests.bench.turns import Bench, Goal

TRIPS = 100
"""Round trips of which one measurement is the median."""

PIPELINED = 10_000

DIALECTS = ("seed", "qemu")


@contextmanager
def subjects(directory: str) -> Iterator[dict[str, Subject]]:
    """What is asked, by column; hmp by dialect, since one asks the guest each time and the other does not."""
    commands = {f"hmp-{each}": [*HMP, "-m", "512", "--headless", "--dialect", each] for each in DIALECTS}
    if real := qemu():
        commands["qemu"] = real
    with ExitStack() as stack:
        made = {}
        for name, command in commands.items():
            made[name] = Subject(name, command, directory)
            stack.callback(made[name].close)
        for column, mode in (("instead", "fake"), ("limit", "echo")):
            made[column] = Subject(column, [*OTHERS, mode], directory)
            stack.callback(made[column].close)
        yield made


def round_trips(bench: Bench) -> None:
    """One client, one command after another."""
    with folder() as directory, subjects(directory) as asked:

        def columns(dialect: str, measure: Callable[[Subject], float]) -> dict[str, Callable[[], float] | None]:
            return {
                "hmp": partial(measure, asked[f"hmp-{dialect}"]),
                **{name: partial(measure, subject) for name, subject in asked.items() if not name.startswith("hmp")},
            }

        def trip(method: str, subject: Subject) -> float:
            once = getattr(subject, method)
            return statistics.median(once() for _ in range(TRIPS)) * 1e6

        for dialect, limit in zip(DIALECTS, (4, 2.5), strict=True):
            for monitor, what, share in (("hmp", "`info balloon`", 0.6), ("qmp", "`query-balloon`", 0.35)):
                bench.figure(
                    f"trip-{monitor}-{dialect}",
                    f"round trip of {what}, dialect {dialect}",
                    "us",
                    columns(dialect, partial(trip, f"{monitor}_round_trip")),
                    Goal("limit", most=limit),
                    Goal("qemu", most=share),
                    share=2,
                )
            bench.figure(
                f"pipelined-{dialect}",
                f"{PIPELINED:,} pipelined `query-balloon`, dialect {dialect}",
                "a second",
                {
                    column: measure
                    for column, measure in columns(dialect, lambda each: each.pipelined(PIPELINED)).items()
                    if column != "limit"  # a server that parses nothing says nothing here
                },
                *([Goal("qemu", least=30)] if dialect == "qemu" else []),
                share=0.6,
            )
        idle: dict[str, list[socket.socket]] = {name: [] for name in ("hmp-seed", "instead", "limit")}
        for clients in (1, 100) if bench.quick else (1, 10, 100, 1000):
            for name, held in idle.items():
                while len(held) < clients - 1:
                    held.append(asked[name].connect(asked[name].paths[1]))
            bench.figure(
                f"clients-{clients}",
                f"round trip of `info balloon` of one client among {clients:,}",
                "us",
                {
                    column: partial(trip, "hmp_round_trip", asked[name])
                    for column, name in (("hmp", "hmp-seed"), ("instead", "instead"), ("limit", "limit"))
                },
                plot=("clients", clients),
            )
        for held in idle.values():
            for client in held:
                client.close()


def beside(command: list[str], name: str, pieces: list[tuple[str, bytes]], lasting: float) -> list[float]:
    """Return the round trips, in ms, of an honest client beside abusers, each with a monitor of its own.

    QEMU serves one client of an address; so that both do the same, hmp gets as many addresses.
    """
    with folder() as directory:
        kinds = ["monitor", *(kind for kind, _ in pieces)]
        paths = [f"{directory}/{number}" for number in range(len(kinds))]
        process = started([*command, *monitors(name, zip(kinds, paths, strict=True))])
        try:
            connect(process, paths[-1]).close()
            abusers = [(path, piece) for path, (_, piece) in zip(paths[1:], pieces, strict=True)]
            return [trip * 1e3 for trip in soak.run(process, abusers, paths[0], lasting)[1]]
        finally:
            process.kill()
            process.wait()


KINDS = ("help", "long lines", "TABs", "schema", "events", "query-balloon", "balloon", "history", "garbage")
"""Floods that QEMU understands as we do."""


def crowd(bench: Bench) -> None:
    """One honest client beside 50 abusers, of each kind and of all."""
    commands = {"hmp": [*HMP, "-m", "512", "--headless"]}
    if real := qemu():
        commands["qemu"] = real
    floods = {"all kinds": list(KINDS), **({} if bench.quick else {kind: [kind] for kind in KINDS})}
    for name, kinds in floods.items():
        pieces = ([soak.ABUSES[kind] for kind in kinds] * 50)[:50]
        trips: dict[str, list[list[float]]] = {column: [] for column in commands}
        for _ in range(bench.turns(0.4)):
            for column, command in commands.items():
                trips[column].append(beside(command, column, pieces, 2.5) or [2500.0])
        for what, pick, most in (("median", statistics.median, 250.0), ("worst", max, 1000.0)):
            found = {column: [pick(turn) for turn in turns] for column, turns in trips.items()}
            bench.note(
                f"crowd-{what}-{name.replace(' ', '-')}",
                f"`info status` beside 50 abusers ({name}), {what}",
                "ms",
                found,
                Goal("", most=most),
            )


def waiting(bench: Bench) -> None:
    """A thousand clients wait for a silent guest: when the first hears of it, and when the last."""
    count = 200 if bench.quick else 1000
    programs = {
        "hmp": [*HMP, "-m", "512", "--headless", "--guest", "silent", "--monitor"],
        "limit": [*OTHERS, "timer"],
    }
    late: dict[str, dict[str, list[float]]] = {"first": {}, "last": {}}
    for _ in range(bench.turns(0.4)):
        for column, command in programs.items():
            with folder() as directory:
                path = f"{directory}/m"
                where = f"unix:{path},server=on,wait=off" if column == "hmp" else path
                process = started([*command, where])
                try:
                    first, last = _late(process, path, count)
                finally:
                    process.kill()
                    process.wait()
            late["first"].setdefault(column, []).append(first)
            late["last"].setdefault(column, []).append(last)
    bench.note(
        "timer-first", f"5 s timer, {count:,} waiting: first reply late by", "ms", late["first"], Goal("", most=2)
    )
    bench.note("timer-last", f"5 s timer, {count:,} waiting: last reply late by", "ms", late["last"], Goal("", most=60))


def _late(process: subprocess.Popen[bytes], path: str, count: int) -> tuple[float, float]:
    """Return by how many ms the first and the last of the answers come after five seconds."""
    clients: dict[int, socket.socket] = {}
    asked: dict[int, float] = {}
    while len(clients) < count:
        client = connect(process, path)
        clients[client.fileno()] = client
        while not client.recv(4096).endswith(b"(qemu) "):
            pass
    poll = select.poll()
    for number, client in clients.items():
        client.sendall(b"info balloon\n")
        asked[number] = time.perf_counter()
        poll.register(number, select.POLLIN)
    seen: dict[int, bytes] = dict.fromkeys(clients, b"")
    first = last = 0.0
    while asked:
        for number, _ in poll.poll(20_000):
            seen[number] += clients[number].recv(4096)
            if seen[number].endswith(b"(qemu) "):
                late = (time.perf_counter() - asked.pop(number) - 5.0) * 1e3
                first, last = first or late, late
                poll.unregister(number)
    for client in clients.values():
        client.close()
    return first, last
