"""`info balloon` of a running QEMU with a real Linux in it, beside a raw client of QMP that does the same."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.bench.programs import HMP
from tests.bench.turns import Bench, Goal, in_turns
from tests.support.live import Qmp, Unavailable
from tests.support.vms import boot

ASKED = 30
"""Questions of which one measurement is the median."""

BALLOON = {"path": "/machine/peripheral/balloon0"}
INTERVAL = {**BALLOON, "property": "guest-stats-polling-interval"}
VIRTIO = {"path": "/machine/peripheral/balloon0/virtio-backend", "queue": 2}


def raw(client: Qmp, *, reads: bool) -> float:
    """Return the ms that a client takes which asks the guest by the polling interval, and does no more than it must.

    With `reads` it takes the same steps as hmp: it reads the interval before it changes it, and before it puts it back.
    """
    ask, taken = client.ask, []
    for _ in range(ASKED):
        begun = time.perf_counter()
        before = ask("x-query-virtio-queue-status", **VIRTIO)["last-avail-idx"]
        if reads:
            ask("qom-get", **INTERVAL)
        ask("qom-set", **INTERVAL, value=1)
        while ask("x-query-virtio-queue-status", **VIRTIO)["last-avail-idx"] == before:
            pass
        ask("qom-get", **BALLOON, property="guest-stats")
        ask("query-balloon")
        if reads:
            ask("qom-get", **INTERVAL)
        ask("qom-set", **INTERVAL, value=0)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken) * 1e3


def ours(hmp: subprocess.Popen[bytes]) -> float:
    """Return the ms from a line to the answer's last byte."""
    assert hmp.stdin is not None
    assert hmp.stdout is not None
    taken = []
    for _ in range(ASKED):
        begun = time.perf_counter()
        hmp.stdin.write(b"info balloon\n")
        hmp.stdin.flush()
        if b",age=" in hmp.stdout.readline():
            raise SystemExit("the guest did not answer")
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken) * 1e3


def measure(bench: Bench) -> None:
    """Both hold their connection; each has a socket of its own."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            vm = boot(Path(directory))
        except Unavailable as why:
            print(f"attached: {why}")
            return
        client = Qmp(Path(directory) / "b")
        hmp = subprocess.Popen(
            [*HMP, "--attach", f"unix:{directory}/a,hold=on"], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            found = in_turns(
                bench.rounds,
                {
                    "hmp": partial(ours, hmp),
                    "instead": partial(raw, client, reads=True),
                    "limit": partial(raw, client, reads=False),
                },
            )
            bench.note("attached", "attached: `info balloon` of a running VM", "ms", found)
            more = [ours - theirs for ours, theirs in zip(found["hmp"], found["instead"], strict=True)]
            what = "attached: more than a raw client takes for the same steps"
            bench.note("attached-more", what, "ms", {"hmp": more}, Goal("", most=1))
        finally:
            hmp.communicate(timeout=20)
            client.socket.close()
            vm.close()
