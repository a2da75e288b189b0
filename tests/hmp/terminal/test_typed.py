"""The typed monitor under a virtual clock: keys in, results out. What is drawn is looked at in test_pty.py."""

from __future__ import annotations

import asyncio
import os
import re
import stat

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.data_structures import Size
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from device.clock import SECOND, SimulatedClock
from device.guest.table import make_guest
from device.machine.events import RuleBroken
from device.machine.machine import Machine
from device.virtio.spec import MIB
from hmp.drive import MachineDriver
from hmp.monitor import TOO_LONG
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.monitor import Monitor
from hmp.terminal.events import FAULT_SPACING, Announcer
from hmp.terminal.hints import LEAVE, first, usage, wrong
from hmp.terminal.history import KEEP_BYTES, FileHistory, history_path
from hmp.terminal.prompt import LinePrompt
from hmp.terminal.screen import Screen
from hmp.terminal.session import CANCELLED, Session
from tests.support.loop import VirtualLoop


class Person:
    """Types at a monitor: `at` says what happens when (seconds of virtual time)."""

    def __init__(self, loop: VirtualLoop, machine: Machine, pipe, *, history=None, color=False, ansi=True) -> None:
        self.loop = loop
        self.machine = machine
        self.pipe = pipe
        self.written: list[tuple[float, str]] = []
        self.replies: list[str] = []
        self.driver = MachineDriver(machine, loop)
        self.columns = 80
        screen = Screen(
            lambda text: self.written.append((loop.time(), text)), ansi=ansi, color=color, width=lambda: self.columns
        )
        self.prompt = LinePrompt(machine, screen, pipe, DummyOutput(), history=history or InMemoryHistory())
        self.session = Session(
            machine,
            Monitor(machine, DIALECTS["seed"]),
            self.driver,
            screen,
            self.prompt,
            on_reply=lambda reply: self.replies.append(reply.text),
        )

    def type(self, keys: str, at: float = 0) -> Person:
        self.loop.call_at(at, self.pipe.send_text, keys)
        return self

    def does(self, what, at: float) -> Person:
        self.loop.call_at(at, what)
        return self

    async def sit(self) -> None:
        self.driver.start()
        try:
            await self.session.run()
        finally:
            self.driver.stop()

    @property
    def shown(self) -> str:
        """What the session printed, without the countdown."""
        return "".join(text for _, text in self.written if not text.startswith("\r"))

    @property
    def everything(self) -> str:
        return "".join(text for _, text in self.written)

    @property
    def countdown(self) -> list[tuple[float, str]]:
        return [(at, text[1:].partition("\x1b")[0]) for at, text in self.written if text.startswith("\rw")]


@pytest.fixture
def sitting(monkeypatch):
    """Return a function that runs `script(person)` before a session at a machine, and the person afterwards."""
    monkeypatch.setenv("TERM", "xterm")

    def sit(script, *, guest: str = "linux", clock=None, **options) -> Person:
        async def everything() -> Person:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            machine = Machine(clock or loop.machine_clock(), ram=64 * MIB, guest=make_guest(guest))
            machine.start()
            try:
                with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
                    person = Person(loop, machine, pipe, **options)
                    script(person)
                    await person.sit()
                    assert machine.over
                    return person
            finally:
                machine.close()

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(everything())

    return sit


class TestLines:
    def test_a_command_and_the_end(self, sitting):
        person = sitting(lambda person: person.type("info status\rquit\r"))
        assert person.shown == "VM status: running\n"

    def test_ctrl_d_on_an_empty_line_ends_the_machine(self, sitting):
        assert sitting(lambda person: person.type("info name\r\x04")).shown == ""

    def test_a_closed_input_ends_the_machine(self, sitting):
        sitting(lambda person: person.does(person.pipe.close, 1))

    def test_a_line_entered_in_the_moment_of_the_end_does_not_run(self, sitting):
        """SIGTERM between Enter and the command: it would wait for a guest that nothing drives any more."""

        def script(person):
            async def read() -> str:
                person.session.leave()
                return "info balloon"

            person.session._prompt.read = read

        person = sitting(script, guest="silent")
        assert (person.shown, person.session._monitor.typed) == ("", [])

    def test_ctrl_c_clears_the_line(self, sitting):
        person = sitting(lambda person: person.type("garbage\x03info status\rquit\r"))
        assert person.shown == "VM status: running\n"

    def test_a_typed_hash_is_an_unknown_command(self, sitting):
        assert sitting(lambda person: person.type("# hello\r\x04")).shown == "unknown command: '#'\n"

    def test_a_line_that_is_too_long_is_refused_once(self, sitting):
        def pasted(length: int) -> str:
            return "\x1b[200~" + "info status".ljust(length) + "\x1b[201~\r"

        person = sitting(lambda person: person.type(pasted(4096) + pasted(4095) + pasted(30_000) + "\x04"))
        assert person.shown == f"{TOO_LONG}\nVM status: running\n{TOO_LONG}\n"

    def test_what_was_typed_is_the_monitors_history(self, sitting):
        person = sitting(lambda person: person.type("info name\rinfo history\r\x04"))
        assert person.shown.split() == ["0:", "'info", "name'", "1:", "'info", "history'"]

    def test_what_was_typed_is_what_a_script_needs(self, sitting):
        person = sitting(lambda person: person.type("info name\r\r  \rwrong\r\x04"))
        assert person.session._monitor.typed == [("info name", True), ("wrong", False)]

    def test_a_repeated_line_moves_to_the_end_of_the_history(self, sitting):
        person = sitting(lambda person: person.type("info name\rinfo uuid\rinfo name\rinfo history\r\x04"))
        assert [line.partition(":")[2].strip() for line in person.shown.splitlines()[-3:]] == [
            "'info uuid'", "'info name'", "'info history'",
        ]  # fmt: skip

    def test_what_is_drawn_fits_the_screen_as_it_is_now(self, sitting):
        def script(person):
            person.columns = 40
            person.type("info balloon\rsim chart\r").does(lambda: setattr(person, "columns", 200), 1)
            person.type("sim chart\r\x04", 2)

        narrow, wide = sitting(script).replies[1:3]
        assert max(map(len, narrow.splitlines())) <= 40
        assert 120 < max(map(len, wide.splitlines())) <= 200

    def test_unprintable_text_is_shown_escaped(self, sitting):
        person = sitting(lambda person: person.type("\x11\x01\r\x04"))
        assert person.shown == "unknown command: '\\x01'\n"

    def test_a_paste_of_several_lines_runs_them(self, sitting):
        person = sitting(lambda person: person.type("\x1b[200~info status\ninfo name\ninfo uu\x1b[201~id\rquit\r"))
        assert person.replies == ["VM status: running\n", "", "00000000-0000-0000-0000-000000000000\n", ""]

    def test_tab_completes(self, sitting):
        person = sitting(lambda person: person.type("info statu\t\rinf\tuuid\rqu\t\r"))
        assert person.replies == ["VM status: running\n", "00000000-0000-0000-0000-000000000000\n", ""]

    def test_ctrl_r_finds_an_earlier_line(self, sitting):
        person = sitting(lambda person: person.type("info status\rinfo name\r\x12sta", 0).type("\r\r\x04", 1))
        assert person.replies == ["VM status: running\n", "", "VM status: running\n"]


UP, RIGHT = "\x1b[A", "\x1b[C"


def slowly(keys: str) -> list[str]:
    """The keys one by one."""
    return re.findall(r"\x1b\[200~.*?\x1b\[201~|\x1b\[\w|.", keys, re.DOTALL)


@pytest.mark.parametrize(
    "keys",
    [
        f"info version\r{UP}0M\r",
        "info version\r\x10\r",
        f"info name\rinfo version\r{UP}{UP}\x0e\r",
        "info name\rinfo uuid\r\x12nam\r\r",
        f"info name\rgarbage\x03{UP}\r",
        f"{UP}\r",
        f"old{UP}\r",
        f"info st{RIGHT}\r",
        "info \t\t\t\r\r",
        f"info balloon\r{UP}{UP}\rinfo name\r{UP}{UP}\r",
        f"\x1b[200~info name\ninfo uuid\x1b[201~\r{UP}{UP}\r",
    ],
)
def test_keys_run_the_same_however_they_arrive(sitting, keys):
    """In one packet, two, one by one, and typed slowly at each prompt."""
    ways = []
    for pieces, gap in ([keys], 0), ([keys[:13], keys[13:]], 0.001), (slowly(keys), 0.001), (slowly(keys), 0.4):
        history = InMemoryHistory(["old line", "info status", "info mem"])

        def script(person, pieces=pieces, gap=gap):
            for number, piece in enumerate(pieces):
                person.type(piece, gap * number)
            person.does(person.machine.quit, gap * len(pieces) + 11)

        person = sitting(script, guest="silent", history=history, color=True)
        ways.append((history.get_strings(), [re.sub("age=.*", "", reply) for reply in person.replies]))
    assert len(ways[0][1]) > 0
    assert ways[0] == ways[1] == ways[2] == ways[3], person.shown


@pytest.mark.parametrize("arriving", [lambda keys: [keys], slowly], ids=["in one packet", "one by one"])
def test_recall_keys_recall_among_the_keys_of_vi_too(sitting, tmp_path, monkeypatch, arriving):
    (tmp_path / "inputrc").write_text("set editing-mode vi\n")
    monkeypatch.setenv("INPUTRC", str(tmp_path / "inputrc"))

    def script(person):
        for number, key in enumerate(arriving("info name\rinfo uuid\r\x10\x10\r\x10\x10\x0e\r\x04")):
            person.type(key, 0.05 * number)

    typed = sitting(script).session._monitor.typed
    assert [line for line, _ in typed] == ["info name", "info uuid", "info name", "info name"]


def test_enter_takes_a_menus_entry_and_runs_nothing(sitting):
    person = sitting(lambda person: person.type("info n\x7f\t\t\r", 0).does(person.machine.quit, 2))
    assert person.replies == []
    person = sitting(lambda person: person.type("info \t\t\r\r", 0).type("\x04", 6))
    assert len(person.replies) == 1
    assert person.replies[0].startswith("balloon: ")


def test_escape_closes_the_menu(sitting):
    def script(person):
        person.type("info n\x7f\t\t\x1b").type("\r", 2).type("\x04", 3)

    assert sitting(script).replies[0].startswith("info balloon")  # bare info: the list of topics


class TestHelpOn:
    """What is said to a person who is stuck, and to nobody else."""

    @pytest.mark.parametrize(
        ("line", "hint"),
        [
            ("sim help", "try: help sim"),
            ("exit", "did you mean: quit"),
            ("history", "did you mean: info history"),
            ("balloo 512", "did you mean: balloon 512"),
            ("hang", "did you mean: sim hang"),
            ("info balloon; sim hang", "try: one command a line"),
            ("stop; cont", "try: one command a line"),
            ("sim hang; stop", "try: one command a line"),
            ("info balloon;", "did you mean: info balloon"),
            ("info stats", "did you mean: info status"),
            ("sim hagn", "did you mean: sim hang"),
            ("sim guest linx", "did you mean: linux"),
            ("sim guest linux,dely=2", "did you mean: delay"),
            ("sim set free_men 1", "did you mean: free_mem"),
            ("help balloo", "did you mean: help balloon"),
            ("help hang", "did you mean: help sim hang"),
            ("help zzzzzz", ""),
            ("zzzzzz", ""),
            ("balloon lots", ""),
        ],
    )
    def test_did_you_mean(self, sitting, line, hint):
        person = sitting(lambda person: person.type(f"{line}\r\x04"))
        reply = person.replies[0]
        if line.startswith("sim"):  # an error of ours breaks between its words
            assert max(map(len, person.shown.splitlines())) <= 80
            assert person.shown.split() == f"{reply}{hint}".split()
            assert not hint or person.shown.endswith(f"\n{hint}\n")
        else:
            assert person.shown.removeprefix(reply) == (f"{hint}\n" if hint else "")

    @pytest.mark.parametrize(
        ("line", "at"),
        [
            ("", 0), ("info", 4), ("inf", 3), ("inf ", 0), ("info nonsense x", 0), ("balloon 5", 9), ("balloon 5 +", 11),
            ("balloon lots", 8), ("sim delay x", 10), ("sim delay ", 10), ("stop it", 5), ("savevm \"x", 9),
            ("hlep", 0), ("info st", 7), ("info foo", 0), ("sim guest", 9), ("i", 1), ("?", 1), ("info/x", 0),
        ],
    )  # fmt: skip
    def test_what_is_wrong_already_is_known_while_typing(self, line, at):
        assert wrong(line) == at

    def test_what_a_command_takes_stands_behind_its_name(self):
        assert usage("sim delay ") == "seconds: let the driver answer that much later; 0 is at once"
        assert [usage(line) for line in ("sim delay", "sim delay 2 ", "stop ", "wrong ", "")] == [""] * 5

    def test_the_first_look_says_how_to_leave_on_every_window(self):
        for columns in (36, 40, 60, 80, 200):
            assert first(columns).endswith("quit leaves")
            assert len(first(columns)) < columns
        assert first(80).startswith("try: help, sim, TAB to complete, F1 for the keys;")

    @pytest.mark.parametrize(("columns", "shown"), [(80, "seconds: let"), (40, "seconds"), (12, "")])
    def test_what_a_command_takes_is_never_cut(self, sitting, monkeypatch, columns, shown):
        seen: list[str] = []
        monkeypatch.setattr(DummyOutput, "get_size", lambda self: Size(rows=40, columns=columns))

        def script(person):
            person.type("sim delay ").does(lambda: seen.append(person.prompt._behind()), 1).type("\x03\x04", 2)

        sitting(script)
        assert seen[0].startswith(shown)
        assert shown.endswith("let") or seen[0] == shown

    def test_without_colour_what_a_command_takes_stands_in_the_toolbar(self, sitting):
        def script(person):
            def look():
                seen.append("".join(text for _, text in person.prompt._toolbar()).strip())

            person.type("sim delay ").does(look, 1).type("2", 2).does(look, 3).type("\x03\x04", 4)

        for color, shown in ((False, usage("sim delay ")), (True, "running")):
            seen: list[str] = []
            sitting(script, color=color)
            assert seen[0].startswith(shown)
            assert seen[1].startswith("running")

    def test_commands_of_a_running_vm_are_not_measured_by_our_table(self, sitting):
        def script(person):
            person.machine.offers = lambda line: []
            prompt = LinePrompt(person.machine, person.prompt._screen, person.pipe, DummyOutput())
            person.prompt = person.session._prompt = prompt
            person.type("sim delay ").does(lambda: seen.append(prompt._usage(80)), 1).type("\x03\x04", 2)
            assert prompt._session.lexer is None

        seen: list[str] = []
        sitting(script, color=True)
        assert seen == [""]

    def test_without_colour_the_bar_is_made_of_signs(self, sitting):
        seen: list[str] = []

        def script(person):
            person.does(lambda: seen.append("".join(text for _, text in person.prompt._toolbar())), 1).type("\x04", 2)

        sitting(script)
        sitting(script, color=True)
        assert "####" in seen[0]
        assert "#" not in seen[1]

    def test_who_looks_around_is_told_once_where_to_go_on(self, sitting):
        person = sitting(lambda person: person.type("sim\rsim\r\x04"))
        assert person.shown.count("try: help sim, sim hang, sim wake") == 1

    def test_three_ctrl_c_say_how_to_leave(self, sitting):
        assert sitting(lambda person: person.type("\x03\x03").type("\x04", 1)).shown == ""
        assert sitting(lambda person: person.type("\x03\x03\x03").type("\x04", 1)).shown == f"{LEAVE}\n"

    def test_f1_lists_the_keys_and_leaves_the_line_alone(self, sitting):
        person = sitting(lambda person: person.type("info na\x1bOP", 0).type("me\r\x04", 1))
        assert "search the history" in person.shown
        assert person.replies == [""]

    @pytest.mark.parametrize(("inputrc", "keys"), [("set editing-mode vi\n", ""), ("", "\x1bOS")])
    def test_inputrc_and_f4_bring_the_keys_of_vi(self, sitting, tmp_path, monkeypatch, inputrc, keys):
        (tmp_path / "rc").write_text(f"# mine\n{inputrc}set bell-style none\n")
        monkeypatch.setenv("INPUTRC", str(tmp_path / "rc"))
        person = sitting(lambda person: person.type(f"{keys}wrong\x1b", 0).type("0Cinfo status\r\x04", 2))
        assert person.replies == ["VM status: running\n"]

    def test_up_takes_what_is_typed_as_a_prefix_after_a_pause_only(self, sitting):
        for pause, ran in ((0.1, "info uuid"), (2, "info name")):
            history = InMemoryHistory(["info name", "info uuid"])
            person = sitting(
                lambda person, pause=pause: person.type("info n").type(UP, pause).type("\r\x04", 3), history=history
            )
            assert history.get_strings()[-1] == ran, person.shown

    @pytest.mark.parametrize("keys", ["\x12zz\x07", "\x12z\x7f\x07", "\x12\x12\x07"])
    @pytest.mark.parametrize(("pause", "ran"), [(0.1, "info uuid"), (2, "info name")])
    def test_keys_of_a_search_count_as_typing(self, sitting, keys, pause, ran):
        history = InMemoryHistory(["info name", "info uuid"])

        def script(person):
            person.type("info n", 0).type(keys, 3).type(UP, 3 + pause).type("\r\x04", 6)

        person = sitting(script, history=history)
        assert history.get_strings()[-1] == ran, person.shown

    def test_a_pasted_transcript_runs(self, sitting):
        transcript = "(qemu) info status\nVM status: paused\n# a note\n(qemu) info kvm\nkvm support: enabled\n(qemu) "
        person = sitting(lambda person: person.type(f"\x1b[200~{transcript}\x1b[201~\rquit\r"))
        assert person.replies[:2] == ["VM status: running\n", "kvm support: disabled\n"]

    def test_pasted_comments_are_comments(self, sitting):
        person = sitting(lambda person: person.type("\x1b[200~# note\n\ninfo status\n # x\n\x1b[201~quit\r"))
        assert person.replies == ["VM status: running\n", ""]


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
        assert transient[-1] == "\r\x1b[J"

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
    def test_the_target_is_told_when_it_is_reached(self, sitting):
        person = sitting(lambda person: person.type("balloon 32\rhalf").type("\x03quit\r", 2))
        assert person.shown == "[balloon target reached: 32 MiB]\n"

    def test_what_was_typed_here_is_no_news(self, sitting):
        assert sitting(lambda person: person.type("stop\rcont\rsystem_reset\rdevice_del balloon0\rquit\r")).shown == ""

    def test_what_others_do_is(self, sitting):
        person = sitting(
            lambda person: person.does(person.machine.stop, 1).does(person.machine.cont, 2).type("\x04", 3)
        )
        assert person.shown == "[the VM is stopped]\n[the VM runs]\n"

    def test_a_guest_that_breaks_rules_cannot_flood(self):
        lines: list[str] = []
        now = [0.0]
        announcer = Announcer(lines.append, now=lambda: now[0])
        for _ in range(1000):
            announcer.hear(RuleBroken("bad-pfn", "x" * 1000))
        now[0] = FAULT_SPACING
        announcer.hear(RuleBroken("bad-actual", "5"))
        assert lines == [
            f"the guest broke a rule: bad-pfn ({'x' * 60})",
            "the guest broke a rule and 999 times before: bad-actual (5)",
        ]


class TestHistoryFile:
    @pytest.fixture
    def path(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        path = history_path()
        assert path == str(tmp_path / "state" / "hmp" / "history")
        return path

    def test_lines_are_kept_for_the_next_session_and_for_nobody_else(self, sitting, path):
        sitting(lambda person: person.type("info status\rinfo status\r \rquit\r"), history=FileHistory(path))
        assert list(FileHistory(path).load_history_strings()) == ["quit", "info status"]
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        person = sitting(
            lambda person: person.type("\x1b[A", 1).type("\x1b[A\r", 2).type("\x04", 3), history=FileHistory(path)
        )
        assert person.shown == "VM status: running\n"

    def test_a_file_open_to_others_is_closed_to_them(self, path):
        os.makedirs(os.path.dirname(path))
        with open(path, "w") as file:
            file.write("info name\n")
        os.chmod(path, 0o644)
        assert list(FileHistory(path).load_history_strings()) == ["info name"]
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600

    @pytest.mark.parametrize("what", ["a file in place of the directory", "a FIFO", "a directory", "no place at all"])
    def test_without_a_file_nothing_is_said(self, sitting, path, what):
        if what == "a file in place of the directory":
            os.makedirs(os.path.dirname(os.path.dirname(path)))
            open(os.path.dirname(path), "w").close()
        elif what == "a FIFO":
            os.makedirs(os.path.dirname(path))
            os.mkfifo(path)
        elif what == "a directory":
            os.makedirs(path)
        else:
            path = None
        person = sitting(lambda person: person.type("info status\r\x04"), history=FileHistory(path))
        assert person.shown == "VM status: running\n"

    def test_it_does_not_grow_for_ever(self, path):
        history = FileHistory(path)
        history.store_string("x")
        with open(path, "a") as file:
            file.write("an old line\n" * KEEP_BYTES)
        history.store_string("the last")
        assert list(history.load_history_strings())[:2] == ["the last", "an old line"]
        assert os.path.getsize(path) <= KEEP_BYTES
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600

    def test_relative_directories_are_ignored(self, monkeypatch):
        monkeypatch.setenv("XDG_STATE_HOME", "here")
        monkeypatch.setenv("HOME", "/nowhere")
        assert history_path() == "/nowhere/.local/state/hmp/history"
