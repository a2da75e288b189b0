"""`info balloon` of a running VM: how the polling interval is borrowed and put back, and what counts as an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from device.machine.requests import PENDING
from hmp.monitor.monitor import Reply
from tests.support.vms import GREETING, Pair

FRESH = "balloon: actual=256,free_mem=1002\n"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def make(**options: Any) -> Pair:
        made.append(Pair(tmp_path / "q", **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def pair(make: Callable[..., Pair]) -> Pair:
    return make()


def sets(pair: Pair) -> list[int]:
    """What the polling interval was set to, in order."""
    return [given["value"] for name, given in pair.peer.said if name == "qom-set"]


def ask_in_vain(pair: Pair, seconds: float) -> Reply:
    """Ask, and let so much time pass without an answer of the guest."""
    pair.peer.wakes = False
    reply = pair.monitor.execute("info balloon")
    pair.settle(seconds=seconds)
    return reply


class TestFresh:
    def test_interval_0_is_set_to_1_and_restored(self, pair: Pair) -> None:
        assert pair.say("info balloon") == FRESH
        assert not pair.reply.stale
        assert not pair.reply.failed
        assert sets(pair) == [1, 0]

    @pytest.mark.parametrize("interval", [1, 4])
    def test_a_short_interval_is_left_alone_and_its_next_sample_awaited(self, pair: Pair, interval: int) -> None:
        pair.peer.interval = interval
        reply = pair.monitor.execute("info balloon")
        pair.settle(seconds=0.5)
        assert reply.pending
        pair.peer.answer()
        pair.settle(lambda: not reply.pending, 1)
        assert reply.text == FRESH
        assert sets(pair) == []

    @pytest.mark.parametrize("interval", [5, 10, 600])
    def test_a_long_interval_is_set_to_1_and_restored(self, pair: Pair, interval: int) -> None:
        """An interval of 5 s is as long as we wait, so the next sample could come a moment too late."""
        pair.peer.interval = interval
        assert pair.say("info balloon") == FRESH
        assert sets(pair) == [1, interval]

    def test_where_another_client_restores_0_it_is_set_to_1_again(self, pair: Pair) -> None:
        pair.peer.wakes = False
        pair.peer.interval = 1  # set by another client that asks
        reply = pair.monitor.execute("info balloon")
        pair.settle(seconds=0.2)
        pair.peer.interval = 0
        pair.settle(seconds=0.2)
        assert pair.peer.interval == 1
        pair.peer.answer()
        pair.settle(lambda: not reply.pending, 1)
        assert reply.text == FRESH
        assert sets(pair) == [1, 0]

    def test_an_interval_that_another_client_set_meanwhile_is_kept(self, pair: Pair) -> None:
        reply = ask_in_vain(pair, 0.2)
        pair.peer.interval = 3  # another client set it in the meantime
        pair.peer.answer()
        pair.settle(lambda: not reply.pending, 1)
        assert reply.text == FRESH
        assert sets(pair) == [1]

    def test_after_a_reset_of_the_ring_the_question_begins_again(self, pair: Pair) -> None:
        reply = ask_in_vain(pair, 0.2)
        pair.peer.ring, pair.peer.index = 0, 0
        pair.settle(seconds=0.2)
        assert reply.pending
        pair.peer.ring, pair.peer.index = 4096, 1  # as it was before the reset
        pair.settle(lambda: not reply.pending, 1)
        assert reply.text == "balloon: actual=256,free_mem=1001\n"

    def test_a_guest_that_answers_at_the_fourth_look_is_noticed_at_once(self, make: Callable[..., Pair]) -> None:
        """A pause, and the queries that come with it, would take as long as the answer. No query is sent for nothing."""

        def look(given: object) -> object:
            if pair.peer.names().count("x-query-virtio-queue-status") == 5:
                pair.peer.answer()
            return {"vring-desc": pair.peer.ring, "last-avail-idx": pair.peer.index}

        pair = make(x_query_virtio_queue_status=look)
        pair.say("info balloon")
        pair.peer.wakes = False
        pair.peer.said.clear()
        begun = pair.time.now()
        reply = pair.monitor.execute("info balloon")
        pair.settle(lambda: not reply.pending)
        assert (reply.pending, pair.time.now()) == (False, begun)
        look_, get, set_ = "x-query-virtio-queue-status", "qom-get", "qom-set"
        assert pair.peer.names() == [look_, get, set_, *[look_] * 4, "query-balloon", get, get, set_]

    def test_without_x_query_a_change_of_the_statistics_is_the_answer(self, make: Callable[..., Pair]) -> None:
        pair = make(x_query_virtio_queue_status="CommandNotFound", x_query_virtio_status="CommandNotFound")
        reply = ask_in_vain(pair, 0.3)
        assert reply.pending
        pair.peer.answer()
        pair.settle(lambda: not reply.pending, 1)
        assert reply.text == FRESH
        assert "x-query-virtio-status" not in pair.peer.names()

    def test_one_answer_ends_all_that_ask_at_once(self, pair: Pair) -> None:
        replies = [pair.monitor.execute("info balloon") for _ in range(3)]
        pair.settle(lambda: not any(reply.pending for reply in replies), 1)
        assert [reply.text for reply in replies] == [FRESH] * 3
        assert sets(pair) == [1, 0]


class TestStale:
    def test_after_5_s_the_last_numbers_with_their_age(self, pair: Pair) -> None:
        reply = ask_in_vain(pair, 4.99)
        assert reply.pending
        pair.settle(seconds=0.01)
        # The clock of this test is 0 at 1,000,000,000 s of the epoch, when the last statistics came.
        assert reply.text == "balloon: actual=256,free_mem=1001,age=5000\n"
        assert reply.stale
        assert pair.machine.device is not None
        assert pair.machine.device.stats.held is None
        pair.settle(seconds=0.2)
        assert (sets(pair), pair.peer.interval) == ([1, 0], 0)

    def test_age_is_that_of_the_statistics_where_these_are_older(self, pair: Pair) -> None:
        pair.peer.wakes = False
        pair.peer.update -= 100
        assert pair.say("info balloon") == "balloon: actual=256,free_mem=1001,age=105000\n"

    def test_a_host_whose_clock_is_ahead_makes_nothing_younger_than_the_wait(self, pair: Pair) -> None:
        pair.peer.wakes = False
        pair.peer.update += 1000
        assert pair.say("info balloon").endswith(",age=5000\n")

    def test_the_wait_counts_from_the_request_and_not_from_when_qemu_was_asked(self, make: Callable[..., Pair]) -> None:
        def folder(given: dict[str, Any]) -> object:
            pair.time.move_to(pair.time.now() + 3_000_000)
            return [{"name": "b", "type": "child<virtio-balloon-pci>"}] if given["path"].endswith("peripheral") else []

        pair = make(qom_list=folder)
        pair.peer.wakes = False
        pair.peer.update += 1000
        assert pair.say("info balloon").endswith(",age=5000\n")

    def test_without_any_statistics_age_counts_from_attaching(self, pair: Pair) -> None:
        pair.peer.wakes = False
        pair.peer.update = 0
        assert pair.say("info balloon") == "balloon: actual=256,age=5000\n"

    def test_a_missing_driver_is_stale_at_once(self, pair: Pair) -> None:
        pair.peer.ring = 0
        reply = pair.monitor.execute("info balloon")
        pair.settle(lambda: not reply.pending)
        assert (reply.text, reply.stale, reply.failed) == ("balloon: actual=256\n", True, False)
        assert sets(pair) == []

    def test_a_driver_without_the_statistics_queue_is_stale_at_once(self, make: Callable[..., Pair]) -> None:
        status = {"started": True, "guest-features": {"dev-features": []}}
        pair = make(x_query_virtio_status=status)
        reply = pair.monitor.execute("info balloon")
        pair.settle(lambda: not reply.pending)
        assert (reply.text, reply.stale) == ("balloon: actual=256\n", True)

    def test_the_reason_goes_to_stderr_where_a_check_wants_it(
        self, pair: Pair, capfd: pytest.CaptureFixture[str]
    ) -> None:
        pair.monitor.reports_stale = True
        pair.peer.ring = 0
        pair.say("info balloon")
        assert capfd.readouterr().err == "hmp: not fresh: the guest has no balloon driver that reports statistics\n"

    def test_no_balloon_device_is_the_monitors_own_error(self, make: Callable[..., Pair]) -> None:
        pair = make(qom_list=[{"name": "type", "type": "string"}])
        assert pair.say("info balloon") == "Error: No balloon device has been activated\n"
        assert pair.reply.failed


class TestErrors:
    """Errors of QEMU are not always about a device that is gone."""

    @pytest.mark.parametrize("word", ["x-query-virtio-queue-status", "query-balloon", "guest-stats", "qom-set"])
    def test_an_error_that_stays_is_printed_and_the_interval_put_back(self, pair: Pair, word: str) -> None:
        pair.peer.interval = 7
        failing = False

        def fail(given: dict[str, Any], name: str) -> object:
            nonlocal failing
            failing = failing or name == "qom-set" or pair.peer.interval == 1
            if failing and word in (name, given.get("property")) and given.get("value") != 7:
                return "GenericError"
            return old[name](given) if callable(old[name]) else old[name]

        old = dict(pair.peer.answers)
        for name in ("x-query-virtio-queue-status", "query-balloon", "qom-get", "qom-set"):
            pair.peer.answers[name] = partial(fail, name=name)
        command = "qom-get" if word == "guest-stats" else word
        assert (pair.say("info balloon"), pair.reply.failed) == (f"Error: no {command}\n", True)
        pair.settle(seconds=1)
        assert pair.peer.interval == 7

    def test_one_error_is_asked_again(self, pair: Pair) -> None:
        answer = pair.peer.answers["x-query-virtio-queue-status"]
        errors = iter([None, "GenericError"])
        pair.peer.answers["x-query-virtio-queue-status"] = lambda given: next(errors, None) or answer(given)
        reply = pair.monitor.execute("info balloon")
        pair.settle(seconds=0.5)
        pair.peer.answer()  # the next sample, because the interval is 1
        pair.settle(lambda: not reply.pending, 0.5)
        assert reply.text == FRESH.replace("1002", "1003")
        assert (sets(pair), pair.peer.interval) == ([1, 0], 0)

    def test_a_device_that_vanishes_is_told_and_a_new_one_found(
        self, pair: Pair, capfd: pytest.CaptureFixture[str]
    ) -> None:
        reply = ask_in_vain(pair, 1)
        there = {each: pair.peer.answers[each] for each in ("qom-list", "x-query-virtio-queue-status", "qom-get")}
        pair.peer.answers.update({"qom-list": [], "x-query-virtio-queue-status": "GenericError"})
        pair.settle(seconds=0.2)
        assert reply.text == "Error: No balloon device has been activated\n"
        assert not pair.machine.question.asking
        pair.peer.answers.update(there)
        pair.peer.wakes, pair.peer.interval = True, 0
        assert pair.say("info balloon") == FRESH
        assert (pair.peer.interval, capfd.readouterr().err) == (0, "")

    def test_an_error_of_many_lines_is_printed_as_one(self, pair: Pair) -> None:
        error = {"class": "GenericError", "desc": "one\n\ttwo\r\n"}
        pair.peer.answers["qom-list"] = lambda given: pair.peer.send({"id": pair.link._serial, "error": error})
        assert pair.say("info balloon") == "Error: one two\n"

    def test_a_vm_that_is_not_initialized_yet_is_told_in_qemus_words(self, make: Callable[..., Pair]) -> None:
        """With --preconfig, QEMU has hardly any command."""
        assert make(qom_list="CommandNotFound").say("info balloon") == "Error: no qom-list\n"


class TestPutBack:
    def test_one_that_takes_longer_than_the_answer_makes_no_old_answer(self, pair: Pair) -> None:
        put = pair.peer.answers["qom-set"]

        def slow(given: dict[str, Any]) -> object:
            pair.time.move_to(pair.time.now() + 1_000_000)
            return put(given) if given["value"] else None

        pair.peer.answers["qom-set"] = slow
        assert pair.say("info balloon") == FRESH
        assert not pair.reply.stale

    def test_an_interval_that_makes_no_sense_is_not_left_in_silence(
        self, pair: Pair, capfd: pytest.CaptureFixture[str]
    ) -> None:
        get = pair.peer.answers["qom-get"]
        asked = iter([0])
        pair.peer.answers["qom-get"] = lambda given: (
            next(asked, []) if given["property"].endswith("interval") else get(given)
        )
        pair.say("info balloon")
        pair.settle(seconds=1)
        assert "the polling interval of balloon0 was left at 1 (it was 0): " in capfd.readouterr().err

    def test_by_ctrl_c(self, pair: Pair) -> None:
        reply = ask_in_vain(pair, 1)
        assert pair.peer.interval == 1
        reply.cancel()
        pair.settle(seconds=0.2)
        assert pair.peer.interval == 0
        assert pair.machine.device is not None
        assert pair.machine.device.stats.held is not None, "the toolbar would say that the guest does not answer"

    def test_on_a_new_connection_where_the_first_is_lost(self, pair: Pair) -> None:
        reply = ask_in_vain(pair, 1)
        pair.peer.hang_up()
        pair.settle(seconds=0.5)
        assert pair.peer.names().count("qmp_capabilities") == 2
        assert reply.pending
        reply.cancel()
        pair.settle(seconds=0.5)
        assert pair.peer.interval == 0

    def test_a_connection_lost_while_a_reply_is_awaited_is_made_anew(self, pair: Pair) -> None:
        reply = ask_in_vain(pair, 1)
        pair.peer.answering = False
        pair.settle(seconds=0.2)
        pair.peer.hang_up()
        pair.peer.answering = pair.peer.wakes = True
        pair.settle(lambda: not reply.pending, 1)
        assert (reply.text, pair.peer.interval) == (FRESH, 0)

    def test_where_that_fails_too_the_interval_that_was_left_is_reported(
        self, pair: Pair, capfd: pytest.CaptureFixture[str]
    ) -> None:
        reply = ask_in_vain(pair, 1)
        pair.peer.greets = False
        pair.peer.hang_up()
        pair.settle(lambda: pair.machine.question.saved_interval is None, seconds=30)
        assert "the polling interval of balloon0 was left at 1 (it was 0): " in capfd.readouterr().err
        assert not reply.pending

    def test_for_a_vm_that_is_gone_no_interval_is_reported(self, pair: Pair, capfd: pytest.CaptureFixture[str]) -> None:
        reply = ask_in_vain(pair, 1)
        pair.peer.close()
        pair.settle(lambda: pair.machine.over, seconds=1)
        assert (reply.pending, reply.failed) == (False, True)
        assert reply.text.startswith("Error: ")
        assert pair.machine.failure
        assert capfd.readouterr().err == ""


class TestHolding:
    def test_the_connection_is_closed_between_looks_unless_hold_is_on(self, make: Callable[..., Pair]) -> None:
        pair = make(hold=False)
        assert pair.say("info balloon") == FRESH
        pair.settle()
        assert pair.peer.client is None
        reply = ask_in_vain(pair, 1)
        assert reply.pending
        assert pair.peer.client is None
        pair.peer.answer()
        pair.settle(lambda: not reply.pending, 1)
        assert "age" not in reply.text.replace("page", "")

    def test_a_socket_that_another_holds_for_a_while_is_no_error(self, make: Callable[..., Pair]) -> None:
        pair = make(hold=False)
        pair.peer.greets = False
        reply = pair.monitor.execute("info balloon")
        pair.settle(seconds=3)
        pair.peer.greets = True
        pair.peer.send(GREETING)  # the other client has left, and we are served
        pair.settle(lambda: not reply.pending, 1)
        assert reply.text == FRESH

    def test_a_socket_that_another_holds_all_the_time_is_an_error(self, make: Callable[..., Pair]) -> None:
        pair = make(hold=False)
        pair.peer.greets = False
        assert "busy: another client holds this monitor" in pair.say("info balloon")
        assert pair.reply.failed
        assert pair.machine.requests.pending == {}


@pytest.mark.parametrize(
    "answer",
    [None, 7, [], {"stats": 1}, {"vring-desc": "x"}, {"actual": "x"}, {"actual": -5}, {"actual": 1e300}, "abc" * 3,
     {"actual": 1 << 64}, {"actual": True}, {"stats": {}, "last-update": "y" * 12}, {"stats": None, "last-update": 5},
     {"stats": {"stat-free-memory": "x"}, "last-update": 5}, {"stats": {"stat-free-memory": -7}, "last-update": 5},
     {"stats": {"stat-free-memory": 1.5}, "last-update": 5}, {"stats": {}, "last-update": -5}, [{"type": "child<x>"}],
     [{"type": "child<virtio-balloon-pci>"}], [{"type": 5, "name": "x"}], [7]],
    ids=lambda answer: f"{answer}"[:50],
)  # fmt: skip
@pytest.mark.parametrize("command", ["qom_list", "qom_get", "query_balloon", "x_query_virtio_queue_status"])
def test_senseless_answers_end_the_wait_with_one_line(make: Callable[..., Pair], command: str, answer: Any) -> None:
    pair = make(**{command: answer})
    reply = pair.monitor.execute("info balloon")
    pair.settle(lambda: not reply.pending, 20)
    assert not reply.pending
    assert reply.text.count("\n") == 1
    assert reply.failed or (reply.stale and answer is None)
    assert PENDING not in [each.state for each in pair.machine.requests.pending]


@pytest.mark.parametrize(
    "stats",
    [{"stats": {"stat-free-memory": "x"}, "last-update": 5}, {"stats": None, "last-update": 5},
     {"stats": {}, "last-update": "x" * 12}, {"last-update": 5}, {"stats": {}}, 7],
    ids=str,
)  # fmt: skip
def test_senseless_statistics_restore_the_interval_all_the_same(
    pair: Pair, stats: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    get = pair.peer.answers["qom-get"]
    pair.peer.answers["qom-get"] = lambda given: stats if given["property"] == "guest-stats" else get(given)
    assert pair.say("info balloon") == f"Error: unix:{pair.peer.path}: an answer to qom-get that makes no sense\n"
    assert (sets(pair), pair.peer.interval) == ([1, 0], 0)
    assert capfd.readouterr().err == ""


def test_absent_and_unknown_statistics_are_left_out(pair: Pair) -> None:
    told = {"stat-free-memory": -1, "stat-swap-in": (1 << 64) - 1, "stat-total-memory": 8, "stat-new": [], "": "x"}
    get = pair.peer.answers["qom-get"]
    pair.peer.answers["qom-get"] = lambda given: (
        {"stats": told, "last-update": 5} if given["property"] == "guest-stats" else get(given)
    )
    assert pair.say("info balloon") == "balloon: actual=256,total_mem=8\n"


def test_with_two_balloons_it_says_which_one_is_asked(
    make: Callable[..., Pair], capfd: pytest.CaptureFixture[str]
) -> None:
    """QEMU has one at the most; something else may not."""
    kind = "child<virtio-balloon-pci>"
    found = [{"name": "a", "type": "string"}, {"name": "b\x1b[1m", "type": kind}, {"name": "c", "type": kind}]
    pair = make(qom_list=lambda given: found if given["path"].endswith("peripheral") else [])
    for _ in range(2):
        assert pair.say("info balloon") == f"balloon: actual=256,free_mem={1001 + pair.peer.index - 1}\n"
    told = "2 balloon devices: using /machine/peripheral/b\\x1b[1m"
    assert capfd.readouterr().err == f"hmp: unix:{pair.peer.path}: {told}\n"


class TestSilence:
    def test_a_qemu_that_stops_answering_is_reported_in_time(self, pair: Pair) -> None:
        pair.say("info balloon")
        pair.peer.answering = False
        reply = pair.monitor.execute("info balloon")
        pair.settle(seconds=4.99)
        assert reply.pending
        pair.settle(seconds=0.02)
        assert (reply.pending, reply.stale) == (False, True)
        assert reply.text.startswith("balloon: actual=256,free_mem=1002,age=5")

    def test_the_reason_names_qemu_then_and_not_the_guest(self, pair: Pair, capfd: pytest.CaptureFixture[str]) -> None:
        pair.monitor.reports_stale = True
        ask_in_vain(pair, 6)
        pair.say("info status")
        capfd.readouterr()
        pair.peer.answering = False
        assert ",age=" in pair.say("info balloon")
        assert capfd.readouterr().err == f"hmp: not fresh: unix:{pair.peer.path}: no answer\n"

    def test_a_qemu_that_never_answered_is_named(self, pair: Pair) -> None:
        pair.peer.answering = False
        reply = pair.monitor.execute("info balloon")
        pair.settle(lambda: not reply.pending, 6)
        assert reply.text.startswith(f"Error: unix:{pair.peer.path}: it sent a greeting, and then no answer")

    def test_a_qemu_that_answers_again_has_its_interval_restored(self, pair: Pair) -> None:
        reply = ask_in_vain(pair, 1)
        pair.peer.answering = False
        pair.settle(seconds=5)
        assert (reply.pending, pair.peer.interval) == (False, 1)
        pair.peer.answering = pair.peer.wakes = True
        pair.settle(seconds=12)
        assert pair.peer.interval == 0
        assert pair.say("info balloon") == FRESH

    def test_one_that_never_answers_again_is_reported_with_its_interval(
        self, pair: Pair, capfd: pytest.CaptureFixture[str]
    ) -> None:
        ask_in_vain(pair, 1)
        pair.peer.answering = False
        pair.settle(seconds=60)
        told = f"was left at 1 (it was 0): unix:{pair.peer.path}: no answer within 10 s\n"
        assert capfd.readouterr().err == f"hmp: the polling interval of balloon0 {told}"
        assert pair.link.idle
