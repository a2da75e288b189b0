"""One line in, text or a wait out: lookup, errors, suspended replies, many monitors on one machine."""

from __future__ import annotations

import pytest

from device.clock import MS, SECOND
from device.machine.events import SampleArrived
from hmp.monitor.monitor import HISTORY_LIMIT, Monitor, Reply, find_command
from hmp.monitor.registry import TABLE
from tests.support.machines import build, complete, device_of, monitor, monitor_on, run, say, state_of

FRESH = "balloon: actual=512,mem_swapped_in="


def collected(reply: Reply) -> list[str]:
    """Collects the text with which the reply ends; more than one would be an error."""
    texts: list[str] = []
    reply.on_done = lambda done: texts.append(done.text)
    return texts


# Finding the command.


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("info status", "status"),
        ("info\tstatus", "status"),
        ("  info   status  ", "status"),
        ("s", "stop|s"),
        ("stop", "stop|s"),
        ("c", "cont|c"),
        ("q", "quit|q"),
        ("?", "help|?"),
        ("balloon/1", "balloon"),
        ("info", "info"),
        ("info ", "info"),
        ("sim", "sim"),
        ("sim sleep 1", "sleep"),
    ],
)
def test_a_command_is_found_by_each_of_its_names(line: str, name: str) -> None:
    command, _ = find_command(line)
    assert command is not None
    assert command.name == name


@pytest.mark.parametrize("line", ["", " ", "\t \v\f\r", "\n"])
def test_a_blank_line_does_nothing(line: str) -> None:
    reply = monitor_on().execute(line)
    assert (reply.text, reply.failed, reply.pending) == ("", False, False)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("nosuch", "nosuch"),
        ("  nosuch thing", "  nosuch"),
        ("inf", "inf"),
        ("Info status", "Info"),
        ("stop|s", "stop|s"),
        ("# no comment here", "#"),
        ("info/status", "info"),
        ("info nosuch", "info nosuch"),
        ("sim nosuch", "sim nosuch"),
        ("/", ""),
        ("x" * 300, "x" * 300),
        ("balloon" + "n" * 300, "balloon" + "n" * 300),
    ],
)
def test_an_unknown_command_is_named_as_typed(line: str, told: str) -> None:
    subject = monitor_on()
    reply = subject.execute(line)
    assert (reply.text, reply.failed) == (f"unknown command: '{told}'\n", True)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("s x", 'stop|s: extraneous characters at the end of line\nTry "help s" for more information\n'),
        ("stop x", 'stop|s: extraneous characters at the end of line\nTry "help stop" for more information\n'),
        (
            "info status x",
            'status: extraneous characters at the end of line\nTry "help info status" for more information\n',
        ),
        ("  balloon ", 'unexpected end of expression\nTry "help   balloon" for more information\n'),
        (
            "info  status x",
            'status: extraneous characters at the end of line\nTry "help info  status" for more information\n',
        ),
    ],
)
def test_what_does_not_parse_is_followed_by_where_help_is(line: str, text: str) -> None:
    subject = monitor_on()
    before = state_of(subject.machine)
    reply = run(subject, line)
    assert (reply.text, reply.failed) == (text, True)
    assert state_of(subject.machine) == before


def test_a_command_that_fails_says_error_and_the_next_one_works() -> None:
    subject = monitor_on(balloon=False)
    reply = run(subject, "balloon 256")
    assert (reply.text, reply.failed) == ("Error: No balloon device has been activated\n", True)
    assert say(subject, "info status") == "VM status: running\n"


def test_a_line_is_parsed_once_but_run_each_time() -> None:
    subject = monitor_on()
    for _ in range(3):
        assert say(subject, "stop") == ""
        assert say(subject, "info status") == "VM status: paused\n"
        assert say(subject, "c") == ""
        assert say(subject, "info status") == "VM status: running\n"


def test_a_thousand_different_lines_are_not_all_remembered() -> None:
    subject = monitor_on()
    for number in range(1000):
        assert subject.execute(f"balloon {number + 256}").text == ""
    assert len(subject._parsed) <= 256


# Suspended replies.


def test_a_silent_guest_suspends_the_monitor_until_the_deadline() -> None:
    subject = monitor_on("silent")
    reply = subject.execute("info balloon")
    assert (reply.pending, reply.text, reply.until) == (True, "", 5 * SECOND)
    complete(subject, reply)
    assert (reply.text, reply.stale, reply.failed) == ("balloon: actual=512,age=5000\n", True, False)
    assert subject.machine.clock.now() == 5 * SECOND


def test_a_guest_that_answers_at_once_does_not_suspend() -> None:
    reply = monitor_on().execute("info balloon")
    assert (reply.pending, reply.stale) == (False, False)
    assert reply.text.startswith(FRESH)


def test_a_reply_ends_once_whatever_comes_later() -> None:
    subject = monitor_on("silent")
    reply = subject.execute("info balloon")
    texts = collected(reply)
    complete(subject, reply)
    reply.finish("again\n", failed=True)
    reply.cancel()
    assert texts == ["balloon: actual=512,age=5000\n"]
    assert (reply.text, reply.failed) == (texts[0], False)


def test_a_cancelled_wait_gives_the_prompt_back_and_the_late_answer_still_lands() -> None:
    subject = monitor_on("slow")
    reply = subject.execute("info balloon")
    texts = collected(reply)
    reply.cancel()
    assert (reply.pending, reply.text, texts) == (False, "", [])
    assert not subject.machine.requests.pending
    before = device_of(subject).stats.sample
    run(subject, "sim sleep 3")
    assert device_of(subject).stats.sample is not before
    assert texts == []


def test_a_cancelled_sleep_is_over() -> None:
    subject = monitor_on()
    reply = subject.execute("sim sleep 100")
    states = [reply.pending]
    reply.cancel()
    states.append(reply.pending)
    assert states == [True, False]
    assert subject.machine.time.next_deadline() is None


def test_what_a_reply_shows_is_fixed_when_it_ends() -> None:
    subject = monitor_on("slow")
    reply = run(subject, "info balloon")
    before = reply.text
    run(subject, "balloon 256")
    run(subject, "sim sleep 10")
    assert reply.text == before


# Each of these was a real bug or a real outage.


@pytest.mark.parametrize(
    ("guest", "lines"),
    [
        ("linux", ["stop"]),
        ("linux", ["sim panic"]),
        ("linux", ["sim hang"]),
        ("linux", ["sim drop 2000000000"]),
        ("silent", []),
        ("linux,loss=1", []),
        ("linux,delay=3600", []),
    ],
)
def test_never_again_1_a_guest_that_does_not_answer_suspends_for_the_timeout_only(guest: str, lines: list[str]) -> None:
    subject = monitor_on(guest)
    for line in lines:
        assert not run(subject, line).failed
    for count in range(1, 4):  # and never for longer
        begun = subject.machine.clock.now()
        reply = run(subject, "info balloon")
        assert ",age=" in reply.text
        assert reply.stale
        assert subject.machine.clock.now() - begun == 5 * SECOND
        assert subject.machine.requests.timed_out == count


def test_never_again_2_a_second_request_joins_the_first() -> None:
    first = monitor_on("slow")
    second = monitor(first.machine)
    replies = [first.execute("info balloon")]
    complete(first, first.execute("sim sleep 0.5"))
    replies.append(second.execute("info balloon"))
    assert [reply.pending for reply in replies] == [True, True]
    for reply in replies:
        complete(first, reply)
        assert reply.text.startswith(FRESH)
    assert replies[0].text == replies[1].text
    assert first.machine.clock.now() == 2 * SECOND
    assert first.execute("info balloon").pending  # and both monitors go on
    assert second.execute("info balloon").pending


def test_never_again_3_balloon_0_is_no_request_for_statistics() -> None:
    subject = monitor_on()
    before = state_of(subject.machine)
    reply = run(subject, "balloon 0")
    assert (reply.text, reply.failed) == ("Error: Parameter 'target' expects a size\n", True)
    assert state_of(subject.machine) == before
    assert say(subject, "info balloon").startswith(FRESH)


# Many monitors.


def crowd(guest: str, count: int, dialect: str = "seed") -> list[Monitor]:
    """So many monitors on one machine."""
    machine = build(guest)
    return [monitor(machine, dialect) for _ in range(count)]


def test_ten_requests_from_ten_monitors_are_ten_answers_and_one_round_trip() -> None:
    monitors = crowd("slow", 10)
    machine = monitors[0].machine
    samples: list[object] = []
    machine.subscribe(lambda event: samples.append(event) if isinstance(event, SampleArrived) else None)
    replies = [each.execute("info balloon") for each in monitors]
    texts: list[str] = []
    for reply in replies:
        reply.on_done = lambda done: texts.append(done.text)
    complete(monitors[0], replies[-1])
    assert len(texts) == 10
    assert len(set(texts)) == 1
    assert texts[0].startswith(FRESH)
    assert len(samples) == 1
    assert machine.requests.answered == 10


def test_each_monitor_has_a_deadline_of_its_own() -> None:
    monitors = crowd("silent", 5)
    machine = monitors[0].machine
    ends: list[int] = []
    for each in monitors:
        reply = each.execute("info balloon")
        assert reply.until == machine.clock.now() + 5 * SECOND
        reply.on_done = lambda done: ends.append(machine.clock.now())
        machine.advance(700 * MS)
    while machine.step(jump=True):
        pass
    assert ends == [5 * SECOND + number * 700 * MS for number in range(5)]


def test_one_monitor_that_gives_up_leaves_the_others_waiting() -> None:
    monitors = crowd("slow", 3)
    replies = [each.execute("info balloon") for each in monitors]
    replies[1].cancel()
    complete(monitors[0], replies[0])
    assert [reply.pending for reply in replies] == [False, False, False]
    assert replies[0].text == replies[2].text != ""
    assert replies[1].text == ""


def test_a_callback_may_ask_again_and_gets_an_answer_of_its_own() -> None:
    subject = monitor_on("slow")
    again: list[Reply] = []
    reply = subject.execute("info balloon")
    reply.on_done = lambda done: again.append(subject.execute("info balloon"))
    complete(subject, reply)
    assert again[0].pending
    complete(subject, again[0])
    assert again[0].text.startswith(FRESH)
    assert subject.machine.clock.now() == 4 * SECOND


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("sim driver unload", "balloon: actual=512\n"),
        ("device_del balloon0", "Error: No balloon device has been activated\n"),
    ],
)
def test_what_another_monitor_does_ends_the_wait(line: str, text: str) -> None:
    waiting = monitor_on("hung")
    run(waiting, "info balloon")
    reply = waiting.execute("info balloon")
    assert reply.pending
    assert not run(monitor(waiting.machine), line).failed
    assert (reply.pending, reply.text) == (False, text)
    assert reply.failed == text.startswith("Error")


@pytest.mark.parametrize("line", ["system_reset", "sim guest linux"])
def test_a_request_over_a_reboot_is_answered_by_the_new_guest(line: str) -> None:
    waiting = monitor_on("hung")
    run(waiting, "info balloon")
    reply = waiting.execute("info balloon")
    run(monitor(waiting.machine), line)
    complete(waiting, reply)
    assert reply.text.startswith(FRESH)
    assert not reply.stale
    assert waiting.machine.clock.now() < 5 * SECOND


def test_monitors_have_a_history_of_their_own() -> None:
    first, second = crowd("linux", 2)
    first.history.add("info status")
    assert say(first, "info history") == "0: 'info status'\n"
    assert say(second, "info history") == ""


def test_the_history_keeps_the_newest_lines() -> None:
    subject = monitor_on()
    for number in range(HISTORY_LIMIT + 6):
        subject.history.add(f"line {number}")
    lines = say(subject, "info history").splitlines()
    assert len(lines) == HISTORY_LIMIT
    assert lines[0] == "0: 'line 6'"
    assert lines[-1] == f"{HISTORY_LIMIT - 1}: 'line {HISTORY_LIMIT + 5}'"


def test_no_two_commands_share_a_name() -> None:
    names = [name for command in set(TABLE.values()) for name in command.name.split("|")]
    assert len(names) == len(set(names))
