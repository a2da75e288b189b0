"""What a person sees while a command waits and when something happens, under a virtual clock."""

from __future__ import annotations

import asyncio
import os
import re

import pytest

from device.clock import SECOND, SimulatedClock
from device.machine.events import RuleBroken
from hmp.terminal.dumb import DumbPrompt
from hmp.terminal.events import FAULT_SPACING, Announcer
from hmp.terminal.screen import ERASED, Screen
from hmp.terminal.session import CANCELLED
from hmp.terminal.tty import Tty


class TestWaiting:
    def test_a_silent_guest_takes_the_timeout_and_what_was_typed_ahead_runs_then(self, sitting):
        person = sitting(
            lambda person: person.type("info balloon\r").type("info status\rinfo na", 1).type("me\rquit\r", 6),
            guest="silent",
        )
        assert person.shown == "balloon: actual=64,age=5000\nVM status: running\n"
        assert [at for at, text in person.written if text.startswith("balloon")] == [pytest.approx(5, abs=1e-6)]

    def test_the_countdown_appears_late_counts_down_and_goes(self, sitting):
        person = sitting(lambda person: person.type("info balloon\rquit\r"), guest="silent")
        times, lines = zip(*person.countdown, strict=True)
        assert times[0] == pytest.approx(0.3)
        assert lines[0].startswith("waiting for the guest ... 4.7 s  ")
        seconds = [float(line.split()[5]) for line in lines]
        assert seconds[-1] in (0.1, 0.0)
        assert seconds == sorted(seconds, reverse=True)
        transient = [text for _, text in person.written if text.startswith("\r")]
        assert transient[-1] == ERASED

    def test_a_quick_answer_shows_no_countdown(self, sitting):
        person = sitting(lambda person: person.type("info balloon\rquit\r"), guest="linux,delay=0.2")
        assert person.countdown == []
        assert "free_mem" in person.shown

    def test_ctrl_c_gives_the_prompt_back_and_drops_what_was_typed_ahead(self, sitting):
        def script(person):
            person.type("info balloon\rinfo status\r").does(person.session.interrupt, 2).type("info uuid\rquit\r", 3)

        person = sitting(script, guest="silent")
        assert person.shown == f"{CANCELLED}\n00000000-0000-0000-0000-000000000000\n"

    def test_a_ctrl_c_that_came_as_a_key_counts_too(self, sitting):
        person = sitting(lambda person: person.type("info balloon\rinfo status\r\x03info uuid\rquit\r"), guest="silent")
        assert person.shown == f"{CANCELLED}\n00000000-0000-0000-0000-000000000000\n"
        assert person.loop.time() < 1

    @pytest.mark.parametrize("as_key", [True, False], ids=["a key", "a signal"])
    def test_a_ctrl_c_between_a_line_and_its_wait_is_not_lost(self, sitting, as_key):
        """As a key while the terminal is not quiet yet, so that it was not read; then as a signal of the kernel."""

        def script(person):
            execute = person.session._begin

            def begin(line: str):
                if line == "info balloon":
                    person.pipe.send_text("info status\r\x03") if as_key else person.session.interrupt()
                return execute(line)

            person.session._begin = begin
            person.type("info balloon\r").type("info uuid\rquit\r", 3)

        person = sitting(script, guest="silent")
        assert person.shown == f"{CANCELLED}\n00000000-0000-0000-0000-000000000000\n"

    def test_a_ctrl_c_before_the_prompt_does_not_end_a_later_wait(self, sitting):
        def script(person):
            person.session.interrupt()
            person.type("info balloon\rquit\r", 1)

        assert sitting(script, guest="silent").shown == "balloon: actual=64,age=6000\n"

    def test_on_a_dumb_terminal_a_line_that_a_ctrl_c_drops_before_it_is_read_does_not_block_the_loop(self):
        async def ask(terminal: int) -> str | None:
            prompt = DumbPrompt(Screen(lambda text: None, ansi=False), Tty(terminal), asyncio.get_running_loop())
            asking = asyncio.create_task(prompt.read())
            await asyncio.sleep(0)
            prompt._set_ready(True)  # as for a line that the kernel has dropped since
            asyncio.get_running_loop().call_later(0.01, prompt.interrupt)
            return await asking

        person, terminal = os.openpty()
        try:
            assert asyncio.run(ask(terminal)) is None
        finally:
            os.close(person)
            os.close(terminal)

    def test_a_late_answer_lands_behind_a_ctrl_c(self, sitting):
        def script(person):
            person.type("info balloon\r").does(person.session.interrupt, 1).does(look, 3).type("quit\r", 4)
            samples.append(person.machine)

        def look() -> None:
            samples.append(samples[0].device.stats.sample.collected)

        samples: list = []
        sitting(script, guest="linux,delay=2")
        assert samples[1] == 2 * SECOND

    def test_ctrl_c_ends_a_sleep(self, sitting):
        def script(person):
            person.type("sim sleep 100\r").does(person.session.interrupt, 2).type("info status\rquit\r", 3)

        person = sitting(script)
        assert person.shown == f"{CANCELLED}\nVM status: running\n"
        assert person.countdown[0][1].startswith("waiting ... 99.7 s  ")

    @pytest.mark.parametrize(("columns", "words"), [(32, "waiting for the guest ... "), (20, "waiting ... "), (9, "")])
    def test_a_narrow_countdown_says_less_but_always_the_number(self, sitting, columns, words):
        def script(person):
            person.columns = columns
            person.type("info balloon\rquit\r")

        lines = [text for _, text in sitting(script, guest="silent").written if re.match("\r[w\\d]", text)]
        assert lines[0].startswith(f"\r{words}4.7 s")
        assert all(len(line.partition("\x1b")[0]) <= columns for line in lines)

    def test_without_control_sequences_one_line_says_how_long_it_may_take(self, sitting):
        keys = "info balloon\rsim sleep 2.5\rsim sleep 0.2\rquit\r"
        person = sitting(lambda person: person.type(keys), guest="silent", ansi=False)
        assert [(round(at, 1), text) for at, text in person.written if "wait" in text] == [
            (0.3, "waiting for the guest, 5 s at most; Ctrl-C gives the prompt back\n"),
            (5.3, "waiting, 2.5 s at most; Ctrl-C gives the prompt back\n"),
        ]

    def test_each_wait_of_a_script_counts_down(self, sitting, tmp_path):
        path = tmp_path / "script"
        path.write_text("info balloon\nsim sleep 2\n")

        def script(person):
            person.session._monitor.host_files = True
            person.type(f"sim source {path}\rquit\r")

        texts = [text for _, text in sitting(script, guest="silent").countdown]
        assert texts[0].startswith("waiting for the guest ... 4.7 s")
        assert re.match(r"waiting \.\.\. 0\.[01] s", texts[-1])

    def test_the_age_counts_while_a_watched_guest_is_silent(self, sitting):
        person = sitting(lambda person: person.type("sim hang\rsim watch 1 2\rquit\r"))
        assert person.countdown[0][1].startswith("waiting for the guest ... 4.7 s")
        ages = re.findall(r"last answer ([\d.]+) s ago", person.everything)
        assert {"5.0", "5.5", "6.0", "8.0", "9.9"} <= {*ages}

    def test_a_long_inflation_shows_how_far_it_is(self, sitting):
        person = sitting(lambda person: person.type("balloon 32\rsim sleep 8\rquit\r"), guest="linux,pace=4M")
        lines = [text for _, text in person.countdown]
        assert lines[0].startswith("waiting ... 7.7 s, actual 62")
        assert "on the way to 32M" in lines[0]
        assert "━" in lines[40]

    def test_the_machine_may_end_while_somebody_waits(self, sitting):
        person = sitting(
            lambda person: person.type("info balloon\rinfo status\r").does(person.machine.quit, 1), guest="silent"
        )
        assert person.shown == "[the machine was ended from elsewhere]\n"

    def test_the_machine_may_end_while_a_line_is_typed(self, sitting):
        person = sitting(lambda person: person.type("half a li").does(person.machine.guest_off, 1))
        assert person.shown == "[the guest switched itself off]\n"

    def test_an_error_in_the_machines_time_is_raised_not_swallowed(self, sitting):
        def script(person):
            person.machine.time.after(SECOND, lambda: 1 // 0)

        with pytest.raises(ZeroDivisionError):
            sitting(script)


class TestSimulatedClocks:
    def test_the_warp_clock_jumps_while_waiting_and_only_then(self, sitting):
        clock = SimulatedClock()
        person = sitting(lambda person: person.type("info balloon\r").type("quit\r", 100), guest="silent", clock=clock)
        assert person.shown == "balloon: actual=64,age=5000\n"
        assert person.countdown == []
        assert clock.now() == 5 * SECOND

    def test_it_stops_with_the_reply_not_later(self, sitting):
        clock = SimulatedClock()

        def script(person):
            person.machine.device.stats.set_poll_interval(1)
            person.type("sim sleep 2.5\r").type("quit\r", 100)

        sitting(script, clock=clock)
        assert clock.now() == 2.5 * SECOND

    def test_the_manual_clock_stands_still(self, sitting):
        clock = SimulatedClock(warps=False)
        sitting(lambda person: person.type("balloon 32\r").type("quit\r", 100), clock=clock)
        assert clock.now() == 0


class TestEvents:
    def test_reaching_the_target_is_shown(self, sitting):
        person = sitting(lambda person: person.type("balloon 32\rhalf").type("\x03quit\r", 2))
        assert person.shown == "[balloon target reached: 32 MiB]\n"

    def test_what_was_typed_here_is_not_shown_as_an_event(self, sitting):
        assert sitting(lambda person: person.type("stop\rcont\rsystem_reset\rdevice_del balloon0\rquit\r")).shown == ""

    def test_what_other_monitors_do_is_shown_as_an_event(self, sitting):
        person = sitting(
            lambda person: person.does(person.machine.stop, 1).does(person.machine.cont, 2).type("\x04", 3)
        )
        assert person.shown == "[the VM is stopped]\n[the VM runs]\n"

    def test_a_guest_that_breaks_rules_cannot_flood(self):
        lines: list[str] = []
        now = [0.0]
        announcer = Announcer(lines.append, now=lambda: now[0])
        for _ in range(1000):
            announcer.on_event(RuleBroken("bad-pfn", "x" * 1000))
        now[0] = FAULT_SPACING
        announcer.on_event(RuleBroken("bad-actual", "5"))
        assert lines == [
            f"the guest broke a rule: bad-pfn ({'x' * 60})",
            "the guest broke a rule and 999 times before: bad-actual (5)",
        ]
