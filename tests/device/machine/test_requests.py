"""The life of a stats request: pending, then ended once, whatever happens to guest, driver, device and VM."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.clock import SECOND
from device.machine.requests import ANSWERED, CANCELLED, NO_DEVICE, PENDING, TIMED_OUT, UNSUPPORTED, StatsRequest
from tests.support.rig import VERSION_1, Modelled, Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig.up()


def note(request: StatsRequest, into: list[str]) -> StatsRequest:
    request.on_done = lambda done: into.append(done.state)
    return request


class TestEnds:
    def test_answered_at_once_by_a_guest_that_answers_at_once(self, rig: Rig) -> None:
        rig.answer_with([(4, 1)])
        assert rig.ask().state == ANSWERED
        assert len(rig.machine.host_timers) == 0, "no timer was armed for it"
        assert rig.machine.requests.answered == 1

    def test_answered_later(self, rig: Rig) -> None:
        ends: list[str] = []
        request = note(rig.ask(), ends)
        rig.advance(4.9)
        assert request.state == PENDING
        rig.report([(4, 1)])
        assert (request.state, ends) == (ANSWERED, [ANSWERED])
        assert len(rig.machine.host_timers) == 0

    def test_timed_out_on_the_host_clock(self, rig: Rig) -> None:
        ends: list[str] = []
        request = note(rig.ask(), ends)
        rig.machine.stop()
        rig.machine.advance(5 * SECOND - 1)
        assert request.state == PENDING
        rig.machine.advance(1)
        assert (request.state, ends, rig.machine.requests.timed_out) == (TIMED_OUT, [TIMED_OUT], 1)

    def test_unsupported_without_statistics_or_driver(self) -> None:
        with Rig() as rig:
            assert rig.ask().state == UNSUPPORTED
            rig.up(VERSION_1)
            assert rig.ask().state == UNSUPPORTED
        with Rig(paused=True) as rig:
            assert rig.ask().state == UNSUPPORTED
            assert not rig.machine.requests.pending

    def test_no_device(self) -> None:
        with Modelled(balloon=False) as m:
            assert m.ask().state == NO_DEVICE

    def test_cancelled_without_calling_back(self, rig: Rig) -> None:
        ends: list[str] = []
        request = note(rig.ask(), ends)
        rig.machine.requests.cancel(request)
        rig.machine.requests.cancel(request)
        rig.report([(4, 1)])
        rig.advance(10)
        assert (request.state, ends, rig.machine.requests.pending) == (CANCELLED, [], {})
        assert rig.device.stats.sample is not None, "the late answer still lands"

    def test_a_driver_that_sets_failed_leaves_nobody_waiting(self, rig: Rig) -> None:
        request = rig.ask(None)
        rig.device.write_status(rig.device.status | 128)
        rig.machine.deliver()
        assert request.state == UNSUPPORTED
        assert rig.ask().state == UNSUPPORTED

    def test_a_request_without_deadline_lives_until_the_next_sample(self, rig: Rig) -> None:
        """As a QMP request does."""
        request = rig.ask(None)
        assert request.deadline is None
        assert rig.machine.time.next_deadline() is None
        rig.advance(1_000_000)
        assert request.state == PENDING
        rig.report([(4, 1)])
        assert request.state == ANSWERED


class TestManyAtOnce:
    def test_ten_requests_one_round_trip(self, rig: Rig) -> None:
        ends: list[str] = []
        for _ in range(10):
            note(rig.ask(), ends)
        assert rig.device.queues[2].used_idx == 1, "the buffer was pushed once"
        rig.report([(4, 1)])
        assert ends == [ANSWERED] * 10
        assert rig.device.queues[2].used_idx == 1
        assert rig.machine.requests.answered == 10

    def test_each_has_its_own_deadline(self, rig: Rig) -> None:
        requests = []
        for timeout in (5, 1, 3):
            requests.append(rig.ask(timeout * SECOND))
            rig.advance(0.5)
        states = []
        for _ in range(5):
            rig.advance(1)
            states.append("".join(request.state[0] for request in requests))
        assert states == ["ptp", "ptp", "ptt", "ttt", "ttt"]

    def test_one_that_joins_repeats_the_notification_and_not_the_buffer(self, rig: Rig) -> None:
        rig.ask()
        rig.ask()
        assert rig.guest.interrupts == [2, 2]
        assert rig.device.queues[2].used_idx == 1

    def test_one_opened_by_an_answer_waits_for_the_next(self, rig: Rig) -> None:
        opened: list[StatsRequest] = []
        rig.ask().on_done = lambda _: opened.append(rig.ask())
        rig.report([(4, 1)])
        assert [request.state for request in opened] == [PENDING]
        rig.report([(4, 2)])
        assert [request.state for request in opened] == [ANSWERED]

    @pytest.mark.parametrize("end", ["answer", "unload", "delete"])
    def test_one_may_cancel_another_while_all_end(self, rig: Rig, end: str) -> None:
        ends: list[str] = []
        first, second, third = rig.ask(), note(rig.ask(), ends), note(rig.ask(), ends)
        first.on_done = lambda _: rig.machine.requests.cancel(second)
        if end == "answer":
            rig.report([(4, 1)])
        elif end == "unload":
            rig.device.write_status(0)
            rig.machine.deliver()
        else:
            rig.guest.driver_loaded = True
            rig.machine.device_del("balloon0")
        assert (second.state, ends) == (CANCELLED, [third.state])
        assert third.state == first.state != PENDING
        assert rig.machine.requests.answered == (2 if end == "answer" else 0)
        assert len(rig.machine.host_timers) == 0

    def test_a_long_chain_of_requests_is_answered_to_the_last(self, rig: Rig) -> None:
        """Each request that is answered is followed by another at once, as from a monitor with commands typed ahead."""
        left = [5000]
        unanswered: list[str] = []

        def again(request: StatsRequest) -> None:
            if request.state != ANSWERED:
                unanswered.append(request.state)
            left[0] -= 1
            if left[0]:
                rig.ask().on_done = again

        rig.ask().on_done = again
        assert rig.queues["stats"].take() is not None
        rig.answer_with([(4, 1)])
        rig.report([(4, 1)])
        rig.advance(1)
        assert (left, unanswered) == ([0], [])

    @settings(max_examples=50)
    @given(st.lists(st.tuples(st.sampled_from("aaarcsudl"), st.integers(0, 60)), max_size=40))
    def test_nothing_leaves_a_request_pending_over_its_deadline(self, steps: list[tuple[str, int]]) -> None:
        """Ask, report, cancel, stop, unload, delay: every request ends once, at its deadline at the latest."""
        with Rig() as rig:
            rig.up()
            ended: list[StatsRequest] = []
            requests: list[StatsRequest] = []

            def done(request: StatsRequest) -> None:
                assert request.deadline is not None
                assert rig.clock.now() <= request.deadline
                ended.append(request)

            for step, tenths in steps:
                if step == "a":
                    request = rig.ask((tenths + 1) * SECOND // 10)
                    request.on_done = done if request.state == PENDING else None
                    requests.append(request)
                elif step == "r" and rig.device.live and len(rig.queues["stats"].free):
                    rig.queues["stats"].take()
                    rig.report([(4, tenths)])
                elif step == "c" and requests:
                    rig.machine.requests.cancel(requests[tenths % len(requests)])
                elif step == "s":
                    (rig.machine.stop if tenths % 2 else rig.machine.cont)()
                elif step == "u":
                    rig.device.write_status(0)
                elif step == "l":
                    rig.up()
                else:
                    rig.advance(tenths / 10)
            rig.advance(7)
            assert not rig.machine.requests.pending
            assert all(request.state != PENDING for request in requests)
            assert len(ended) == len(set(map(id, ended)))
            assert len(rig.machine.host_timers) == 0


class TestTimeAndAge:
    """monitor.md: the 5 second timer, and the age that is shown after it."""

    def test_answer_and_deadline_in_the_same_instant_the_answer_wins(self) -> None:
        with Modelled("slow,delay=5") as m:
            m.advance(1)
            assert m.info() == ANSWERED
            assert m.age == 0

    def test_a_guest_that_answers_after_4_9_s_is_fresh(self) -> None:
        with Modelled("slow,delay=4.9") as m:
            assert (m.info(), m.age, m.clock.now()) == (ANSWERED, 0, 4_900_000_000)

    def test_a_guest_that_answers_after_5_1_s_is_stale_at_5_and_stored_later(self) -> None:
        with Modelled("slow,delay=5.1") as m:
            m.advance(1)
            assert (m.info(), m.age) == (TIMED_OUT, 6)
            first = m.stats.sample
            m.advance(0.1)
            late = m.stats.sample
            assert late is not first
            assert (m.age, late.collected) == (0, 6_100_000_000)
            assert m.machine.requests.answered == 0

    def test_before_any_sample_age_counts_from_creation_or_reset(self) -> None:
        with Modelled("silent") as m:
            m.advance(3)
            assert m.age == 3
            assert m.info() == TIMED_OUT
            assert m.age == 8
            m.machine.reset()
            assert (m.age, m.stats.sample) == (0, None)

    def test_a_stopped_vm_times_out_and_answers_at_cont(self) -> None:
        with Modelled() as m:
            m.advance(1)
            m.machine.stop()
            assert (m.info(), m.age) == (TIMED_OUT, 6)
            request = m.ask()
            m.machine.cont()
            assert (request.state, m.age) == (ANSWERED, 0)


LIFE: list[tuple[str, Callable[[Modelled], object], str]] = [
    ("system_reset", lambda m: m.machine.reset(), ANSWERED),
    ("driver unload", lambda m: m.guest.controls.unload_driver(), UNSUPPORTED),
    ("panic and reset", lambda m: (m.guest.controls.panic(), m.machine.reset()), ANSWERED),
    ("wake", lambda m: m.guest.controls.wake(), ANSWERED),
    ("quit", lambda m: m.machine.quit(), PENDING),
    ("panic", lambda m: m.guest.controls.panic(), PENDING),
    ("stop and reset", lambda m: (m.machine.stop(), m.machine.reset()), PENDING),
    ("stop, reset, cont", lambda m: (m.machine.stop(), m.machine.reset(), m.machine.cont()), ANSWERED),
]


class TestOverEvents:
    @pytest.mark.parametrize(("what", "act", "state"), LIFE)
    def test_a_pending_request(self, what: str, act: Callable[[Modelled], object], state: str) -> None:
        with Modelled("linux,answers=0") as m:
            requests = [m.ask(), m.ask(None)]
            deadline = requests[0].deadline
            m.advance(2)
            if what in ("system_reset", "panic and reset"):
                m.guest.set_fault("answers", -1)
            act(m)
            assert [request.state for request in requests] == [state] * 2
            assert requests[0].deadline == deadline
            m.advance(3)
            assert requests[0].state != PENDING

    @pytest.mark.parametrize(
        ("spec", "state"),
        [
            ("linux", ANSWERED),
            ("nostats", UNSUPPORTED),
            ("nodriver", UNSUPPORTED),
            ("silent", TIMED_OUT),
            ("slow", ANSWERED),
            ("windows", ANSWERED),  # its first buffer is a sample without a known value
        ],
    )
    def test_a_request_over_sim_guest_keeps_its_deadline(self, spec: str, state: str) -> None:
        from device.guest.table import make_guest

        with Modelled("silent") as m:
            request = m.ask()
            m.advance(2)
            m.machine.replace_guest(make_guest(spec))
            m.guest = m.machine.guest
            m.advance(2.999)
            assert (request.state == PENDING) is (state == TIMED_OUT)
            m.advance(0.001)
            assert request.state == state

    @pytest.mark.parametrize("lets_go", ["at once", "when it wakes up", "when it is unloaded", "at cont", "at reset"])
    def test_a_device_deleted_under_a_request_ends_it(self, lets_go: str) -> None:
        with Modelled("silent") as m:
            requests = [m.ask(), m.ask(None)]
            if lets_go in ("when it wakes up", "when it is unloaded", "at reset"):
                m.guest.controls.hang()
            if lets_go == "at cont":
                m.machine.stop()
            m.machine.device_del("balloon0")
            if lets_go != "at once":
                assert [request.state for request in requests] == [PENDING] * 2
            if lets_go == "when it wakes up":
                m.guest.controls.wake()
            elif lets_go == "when it is unloaded":
                m.guest.controls.unload_driver()
            elif lets_go == "at cont":
                m.machine.cont()
            elif lets_go == "at reset":
                m.machine.reset()
            assert [request.state for request in requests] == [NO_DEVICE] * 2
            assert len(m.machine.host_timers) == 0
            assert m.machine.device is None
            assert m.ask().state == NO_DEVICE

    def test_statistics_of_the_boot_before_are_forgotten(self) -> None:
        with Modelled("silent") as m:
            request = m.ask()
            m.machine.reset()
            assert m.stats.sample is None
            assert request.state == PENDING
        with Rig() as rig:
            rig.up(prime=[(4, 1)])
            request = rig.ask()
            rig.guest.on_boot = rig.up
            rig.machine.reset()
            assert (request.state, rig.device.stats.sample) == (PENDING, None)
            rig.report([(5, 2)])
            assert request.state == ANSWERED
            assert rig.device.stats.sample is not None
            assert rig.device.stats.sample.values == {5: 2}
