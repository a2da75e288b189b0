"""The typed monitor under a virtual clock: keys in, results out. What is drawn is looked at in test_pty.py."""

from __future__ import annotations

import re

import pytest
from prompt_toolkit.data_structures import Size
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.output import DummyOutput

from hmp.monitor import TOO_LONG
from hmp.terminal.hints import LEAVE, first_hint, usage, wrong
from hmp.terminal.prompt import LinePrompt


class TestLines:
    def test_a_command_and_the_end(self, sitting):
        person = sitting(lambda person: person.type("info status\rquit\r"))
        assert person.shown == "VM status: running\n"

    def test_ctrl_d_on_an_empty_line_ends_the_machine(self, sitting):
        assert sitting(lambda person: person.type("info name\r\x04")).shown == ""

    def test_a_closed_input_ends_the_machine(self, sitting):
        sitting(lambda person: person.does(person.pipe.close, 1))

    def test_a_line_entered_in_the_moment_of_the_end_does_not_run(self, sitting):
        """SIGTERM between Enter and the command, which would wait for a guest although nothing runs the machine any more."""

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

    @pytest.mark.parametrize("keys", ["wrong\x11\nquit\r\x04", "\x1bOSwrong\x1boquit\r\x04"])
    def test_a_line_break_within_a_line_is_a_blank(self, sitting, keys):
        """Ctrl-Q and the `o` of vi insert one. In the file of sim save what follows would be another command."""
        assert sitting(lambda person: person.type(keys)).session._monitor.typed == [("wrong quit", False)]

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

    def test_a_chart_that_is_watched_fits_the_screen_of_each_round(self, sitting):
        def script(person):
            person.type("sim watch 1 4 sim chart\r").does(lambda: setattr(person, "columns", 40), 1.5).type("\x04", 9)

        rows = [[*map(len, re.findall(r"\|.*\|", text))] for _, text in sitting(script).written if "█" in text]
        assert max(rows[0]) == 40
        assert max(rows[-1]) < 20

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
        "info na\x1b/\rinfo \x1b/\x1b/\r\r",
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
    """Hints for a person who is stuck. Others do not get them."""

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
            ("sim watch 1 2 info baloon", "did you mean: sim watch 1 2 info balloon"),
            ("  help hang", "did you mean: help sim hang"),
            ("help zzzzzz", ""),
            ("zzzzzz", ""),
            ("balloon lots", ""),
        ],
    )
    def test_did_you_mean(self, sitting, line, hint):
        person = sitting(lambda person: person.type(f"{line}\r\x04"))
        reply = person.replies[0]
        if line.startswith("sim"):  # an error of our own is wrapped between words
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
            ("qom-set -", 9), ("qom-set -x", 8), ("screendump a -f", 15),
        ],
    )  # fmt: skip
    def test_what_is_wrong_already_is_known_while_typing(self, line, at):
        assert wrong(line) == at

    def test_what_a_command_takes_stands_behind_its_name(self):
        assert usage("sim delay ") == "seconds: let the driver answer that much later; 0 is at once"
        assert [usage(line) for line in ("sim delay", "sim delay 2 ", "stop ", "wrong ", "")] == [""] * 5

    def test_the_first_look_says_how_to_leave_on_every_window(self):
        for columns in (36, 40, 60, 80, 200):
            assert first_hint(columns).endswith("quit leaves")
            assert len(first_hint(columns)) < columns
        assert first_hint(80).startswith("try: help, sim, TAB to complete, F1 for the keys;")

    @pytest.mark.parametrize(("columns", "shown"), [(80, "seconds: let"), (40, "seconds"), (12, "")])
    def test_what_a_command_takes_is_never_cut(self, sitting, monkeypatch, columns, shown):
        seen: list[str] = []
        monkeypatch.setattr(DummyOutput, "get_size", lambda self: Size(rows=40, columns=columns))

        def script(person):
            person.type("sim delay ").does(lambda: seen.append(person.prompt._after_cursor()), 1).type("\x03\x04", 2)

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

    def test_commands_of_an_attached_vm_are_not_checked_by_our_table(self, sitting):
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

    def test_after_some_commands_one_hint_says_where_to_go_on(self, sitting):
        person = sitting(lambda person: person.type("sim\rsim\r\x04"))
        assert person.shown.count("try: help sim, sim hang, sim wake") == 1
        assert "try: help sim" not in sitting(lambda person: person.type("sim\rsim\r\x04"), attached=True).shown

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

    def test_the_change_of_keys_is_shown_as_an_event_is(self, sitting):
        assert (
            "\x1b[36m[the keys of vi]\x1b[0m\n" in sitting(lambda person: person.type("\x1bOS\x04"), color=True).shown
        )

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


def test_ctrl_c_behind_lines_that_came_with_it_drops_them(sitting):
    person = sitting(lambda person: person.type("info status\r" + "info kvm\r" * 9 + "\x03info name\rquit\r"))
    assert person.shown.startswith("VM status: running\n")
    assert "kvm" not in person.shown
