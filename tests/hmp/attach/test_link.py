"""The client of QMP: what a peer that is slow, hostile or no QEMU at all can do to it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hmp.attach.address import Place
from hmp.attach.link import MAX_MESSAGE, BusyError, LinkError, QmpError, SocketLink
from tests.support.vms import GREETING, Pair


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path / "q")
    yield made
    made.close()


class Told:
    """The result of a command."""

    def __init__(self, pair: Pair, name: str = "query-name", **arguments: Any) -> None:
        self.ended: list[tuple[Any, Exception | None]] = []
        pair.link.execute(name, arguments, lambda *end: self.ended.append(end))

    @property
    def error(self) -> Exception:
        (_, error), *more = self.ended
        assert error is not None
        assert not more, "told twice"
        return error

    @property
    def value(self) -> Any:
        (value, error), *more = self.ended
        assert error is None
        assert not more, "told twice"
        return value


def test_a_command_is_sent_behind_the_negotiation_and_answered(pair: Pair) -> None:
    told = Told(pair)
    pair.settle()
    assert told.value == {"name": "vm1"}
    assert pair.peer.said == [("qmp_capabilities", {}), ("query-name", {})]
    assert pair.link.greeting["version"]["qemu"]["major"] == 7


def test_commands_wait_for_one_another(pair: Pair) -> None:
    told = [Told(pair, name) for name in ("query-name", "query-balloon", "query-none")]
    pair.settle()
    assert [told[0].value, told[1].value] == [{"name": "vm1"}, {"actual": 256 << 20}]
    assert isinstance(told[2].error, QmpError)
    assert (str(told[2].error), told[2].error.kind) == ("no query-none", "CommandNotFound")


def test_an_answer_in_pieces_behind_events_and_blank_lines_is_read(pair: Pair) -> None:
    pair.peer.answers["query-name"] = None
    told = Told(pair)
    pair.settle()
    event = {"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}
    for byte in b"\r\n" + json.dumps(event).encode() + b"\r\n" + b'{"return": {"name": "x"}, "id": 2}\n':
        pair.peer.send(bytes([byte]))
        pair.settle()
    assert told.value == {"name": "x"}
    assert [each.name for each in pair.events] == ["RELAYED", "STOP"]


def test_a_reply_to_somebody_else_is_passed_over(pair: Pair) -> None:
    pair.peer.answers["query-name"] = None
    told = Told(pair)
    pair.settle()
    for answer in ({"return": 1, "id": 77}, {"return": 1}, {"return": 1, "id": "2"}, {"return": 3, "id": 2}):
        pair.peer.send(answer)
    pair.settle()
    assert told.value == 3


def test_a_greeting_that_does_not_come_means_that_the_monitor_is_busy(pair: Pair) -> None:
    pair.peer.greets = False
    told = Told(pair)
    pair.settle(seconds=1.99)
    assert not told.ended
    pair.settle(seconds=0.02)
    assert isinstance(told.error, BusyError)
    assert "busy: another client holds this monitor" in str(told.error)


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "this is not QMP: SSH-2.0-OpenSSH_9.2"),
        (b"QEMU 7.2.0 monitor - type 'help' for more information\r\n(qemu) ", "this is not QMP: QEMU 7.2.0 monitor"),
        (b"[]\r\n", "this is not QMP"),
        (b"{}\r\n", "no greeting came"),
        (b'{"QMP": 7}\n', "no greeting came"),
        (b"[" * 100_000 + b"\n", "this is not QMP"),
        (b"\xff\xfe\x00\n", "this is not QMP"),
        (b"SSH without an end", "no greeting came"),
        (b"x" * 70_000, "this is not QMP: xxx"),
    ],
    ids=map(str, range(9)),
)
def test_what_is_no_qmp_is_an_error_in_one_line(pair: Pair, sent: bytes, why: str) -> None:
    pair.peer.greets = False
    told = Told(pair)
    pair.settle()
    pair.peer.send(sent)
    pair.settle(seconds=2.1)
    assert why in str(told.error)
    assert "\n" not in str(told.error)
    assert len(str(told.error)) < 300


@pytest.mark.parametrize("sent", [b"{\n", b"nonsense\n", b'"x"\n', b"{" * 50_000 + b"\n", b'{"a":' * 20_000 + b"\n",
                                  b'{"return": "\xff\xfe", "id": 2}\n', b'{"id": ' + b"9" * 5000 + b"}\n",
                                  b'{"return": NaN, "id": 2}\n', b'{"return": -1e999, "id": 2}\n'])  # fmt: skip
def test_a_reply_that_is_no_json_ends_the_connection(pair: Pair, sent: bytes) -> None:
    pair.peer.answers["query-name"] = None
    told, behind = Told(pair), Told(pair)
    pair.settle()
    pair.peer.send(sent)
    pair.settle()
    assert "not a JSON object" in str(told.error)
    assert isinstance(behind.error, LinkError)
    assert pair.link.descriptors == []


def test_a_connection_that_breaks_is_an_error(pair: Pair) -> None:
    pair.peer.answers["query-name"] = None
    told = Told(pair)
    pair.settle()
    Told(pair, "query-status")
    assert pair.link._socket is not None
    pair.link._socket.sendall(b" ")  # a peer that closes with something unread resets the connection
    pair.peer.hang_up()
    pair.settle()
    assert str(told.error) == f"unix:{pair.peer.path}: Connection reset by peer"
    assert pair.link.descriptors == []


def test_the_next_command_connects_anew(pair: Pair) -> None:
    Told(pair)
    pair.settle()
    pair.peer.hang_up()
    pair.settle()
    told = Told(pair)
    pair.settle()
    assert told.value == {"name": "vm1"}


def test_a_message_without_end_is_cut_off(pair: Pair) -> None:
    pair.peer.answers["query-name"] = None
    told = Told(pair)
    pair.settle()
    assert pair.peer.client is not None
    piece = b" " * (1 << 20)
    for _ in range(MAX_MESSAGE // len(piece) + 2):
        rest = piece
        while rest and not told.ended:
            try:
                rest = rest[pair.peer.client.send(rest) :]
            except BlockingIOError:
                pair.link.serve()
            except OSError:
                break
    pair.settle()
    assert "a message of more than 64 MiB" in str(told.error)


@pytest.mark.parametrize("sent", [b"", b'{"QM'])
def test_a_peer_that_hangs_up_before_it_greeted_is_an_error(pair: Pair, sent: bytes) -> None:
    pair.peer.greets = False
    told = Told(pair)
    pair.settle()
    pair.peer.send(sent)
    pair.peer.hang_up()
    pair.settle()
    assert str(told.error) == f"unix:{pair.peer.path}: hung up without a greeting"


def test_a_peer_that_refuses_to_negotiate_is_an_error(pair: Pair) -> None:
    pair.peer.greets = False
    told = Told(pair)
    pair.settle()
    pair.peer.answering = False
    pair.peer.send(GREETING)
    pair.settle()
    pair.peer.send({"id": 1, "error": {"class": "GenericError", "desc": "not today"}})
    pair.settle()
    assert "it refuses the negotiation: not today" in str(told.error)


def test_a_host_that_does_not_answer_is_an_error(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(address: tuple[str, int], limit: float) -> socket.socket:
        raise TimeoutError(f"timed out after {limit}")

    monkeypatch.setattr(socket, "create_connection", connect)
    link = SocketLink(pair.clock, Place("tcp:192.0.2.1:4444"))
    ended: list[Exception | None] = []
    link.execute("query-name", {}, lambda value, error: ended.append(error))
    assert [str(error) for error in ended] == ["tcp:192.0.2.1:4444: the host does not answer"]


class TestSilence:
    """A QEMU that stops answering: stopped by a signal, in a savevm of another client, or no QEMU at all."""

    def test_after_the_greeting_is_an_error(self, pair: Pair) -> None:
        pair.peer.answering = False
        told = Told(pair)
        pair.settle(seconds=1.99)
        assert not told.ended
        pair.settle(seconds=0.02)
        assert str(told.error) == f"unix:{pair.peer.path}: it sent a greeting, and then no answer"
        assert pair.link.descriptors == []

    def test_amid_a_command_is_an_error_and_the_late_answer_is_dropped(self, pair: Pair) -> None:
        pair.peer.answers["query-name"] = None
        told, behind = Told(pair), Told(pair, "query-status")
        pair.settle(seconds=9.99)
        assert not told.ended
        assert not behind.ended
        pair.settle(seconds=0.02)
        assert isinstance(told.error, BusyError)
        assert str(told.error) == f"unix:{pair.peer.path}: no answer within 10 s"
        assert behind.value == {"status": "running", "running": True}
        pair.peer.answers["query-status"] = None
        last = Told(pair, "query-status")
        pair.settle()
        for serial in (2, 4):
            pair.peer.send({"return": serial, "id": serial})
        pair.settle()
        assert last.value == 4

    def test_is_not_ended_by_events(self, pair: Pair) -> None:
        pair.peer.answers["query-name"] = None
        told = Told(pair)
        for _ in range(100):
            pair.settle(seconds=0.1)
            pair.peer.send({"event": "RTC_CHANGE"})
        pair.settle(seconds=0.1)
        assert "no answer within 10 s" in str(told.error)

    def test_is_not_ended_by_half_an_answer(self, pair: Pair) -> None:
        pair.peer.answers["query-name"] = None
        told = Told(pair)
        pair.settle()
        pair.peer.send(b'{"return": {"na')
        pair.settle(seconds=10.1)
        assert "no answer within 10 s" in str(told.error)

    def test_the_time_of_a_command_begins_when_it_is_sent(self, pair: Pair) -> None:
        pair.peer.answers["query-name"] = None
        told = [Told(pair), Told(pair)]
        pair.settle(seconds=15)
        assert told[0].ended
        assert not told[1].ended
        pair.settle(seconds=5.1)
        assert told[1].ended


def test_a_socket_that_is_missing_or_dead_is_an_error(tmp_path: Path) -> None:
    pair = Pair(tmp_path / "q")
    pair.peer.close()
    told = Told(pair)
    assert str(told.error) == f"unix:{tmp_path}/q: No such file or directory"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "q"))
        told = Told(pair)
        assert str(told.error) == f"unix:{tmp_path}/q: Connection refused"
    pair.close()


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo])
def test_a_file_that_is_no_socket_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    pair = Pair(tmp_path / "q")
    pair.peer.close()
    make(tmp_path / "q")
    told = Told(pair)
    assert str(told.error) == f"unix:{tmp_path}/q: not a socket; name the one of the VM's -qmp option"
    pair.close()


def test_a_socket_for_which_many_wait_already_is_busy(pair: Pair) -> None:
    waiting = []
    try:
        while True:
            each = socket.socket(socket.AF_UNIX)
            waiting.append(each)
            each.setblocking(False)
            each.connect(str(pair.peer.path))
    except BlockingIOError:
        told = Told(pair)
        assert isinstance(told.error, BusyError)
    finally:
        for each in waiting:
            each.close()
