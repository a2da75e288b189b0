"""`sim watch`, `sim save` and `sim source`."""

from __future__ import annotations

import os
import resource

import pytest

from hmp.monitor.commands.repeat import MAX_LINES, MAX_NESTED
from hmp.monitor.monitor import Reply
from tests.support.machines import monitor_on, run, say


class TestWatch:
    @pytest.mark.parametrize(("line", "rounds", "seconds"), [("2 3", 3, 4.0), ("1 2 info balloon", 2, 1.0)])
    def test_it_runs_again_and_again_in_time(self, line: str, rounds: int, seconds: float) -> None:
        subject = monitor_on()
        text = run(subject, f"sim watch {line}").text
        assert text.count("balloon: ") == rounds
        assert subject.machine.clock.now() == seconds * 1e9

    def test_a_round_that_waits_is_waited_for(self) -> None:
        reply = run(monitor_on("silent"), "sim watch 1 2")
        assert reply.text == "balloon: actual=512,age=5000\nballoon: actual=512,age=10000\n"
        assert reply.stale

    def test_an_error_ends_it(self) -> None:
        reply = run(monitor_on(), "sim watch 1 5 info nonsense")
        assert reply.failed
        assert reply.text.count("unknown command") == 1

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("", "needs a number of rounds here"),
            ("2", "needs a number of rounds here"),
            ("0 3", "takes 0.1 to 3600 seconds"),
            ("1x 3", "'1x' is not a number of seconds"),
            ("1 0", "takes 1 to 100000 rounds, not 0"),
            ("1 2 balloon 5", "sim watch shows info, sim stats, sim chart and qom-get, not 'balloon 5'"),
            ("1 2 sim watch", "not 'sim watch'"),
        ],
    )
    def test_wrong_arguments_are_refused(self, line: str, words: str) -> None:
        reply = run(monitor_on(), f"sim watch {line}")
        assert reply.failed
        assert words in reply.text

    def test_a_person_sees_the_change_and_the_trend(self) -> None:
        subject = monitor_on()
        shown: list[str] = []
        subject.live = lambda draw: shown.append(draw())
        run(subject, "sim set free_mem 100M")
        assert run(subject, "sim watch 1 2").text == ""
        rows = {row[0]: row for row in shown[1].rows}  # type: ignore[attr-defined]
        assert rows["free_mem"][2] == ("dim", "=")
        assert rows["minor_page_faults"][2][0] == "notice"
        assert rows["minor_page_faults"][2][1].startswith("+")
        assert len(rows["minor_page_faults"][3][1]) == 2

    def test_a_person_sees_the_balloon_grow(self) -> None:
        subject = monitor_on("linux,pace=64M")
        shown: list[str] = []
        subject.live = lambda draw: shown.append(draw())
        run(subject, "balloon 256")
        run(subject, "sim watch 1 3")
        sizes = [each.rows[0][:3] for each in shown]  # type: ignore[attr-defined]
        assert [name for name, _, _ in sizes] == ["actual"] * 3
        assert [size for _, size, _ in sizes[1:]] == ["448M", "384M"]
        assert sizes[2][2] == ("notice", f"{-(64 << 20):+,}")


class TestSource:
    def test_it_runs_the_commands_of_a_file(self, tmp_path: os.PathLike[str]) -> None:
        path = f"{tmp_path}/s"
        with open(path, "w") as file:
            file.write("# a note\n\ninfo status\r\nsim hang\ninfo balloon\nnonsense\ninfo kvm\n")
        subject = monitor_on()
        subject.host_files = True
        reply = run(subject, f"sim source {path}")
        assert [line.split(",")[0] for line in reply.text.splitlines()] == [
            "VM status: running", "balloon: actual=512", "unknown command: 'nonsense'", "kvm support: disabled",
        ]  # fmt: skip
        assert reply.failed
        assert reply.stale

    def test_its_lines_are_those_of_a_script_on_the_command_line(self, tmp_path: os.PathLike[str]) -> None:
        path = f"{tmp_path}/s"
        subject = monitor_on()
        subject.host_files = True
        for text, words in (
            ("\ufeffinfo kvm\r\ninfo kvm\r", "kvm support: disabled\n" * 2),
            ("x\u2028y\n", "unknown command: 'x\u2028y'\n"),
            ("x\x0c\x1c\x85\u2029y\n", "unknown command: 'x'\n"),
        ):
            with open(path, "wb") as file:
                file.write(text.encode())
            assert run(subject, f"sim source {path}").text == words
        with open(path, "wb") as file:
            file.write("info kvm\n".encode("utf-16"))
        assert "it is UTF-16; make it UTF-8" in run(subject, f"sim source {path}").text

    def test_one_that_calls_itself_ends(self, tmp_path: os.PathLike[str]) -> None:
        path = f"{tmp_path}/s"
        subject = monitor_on()
        subject.host_files = True
        for lines in (1, 9):
            with open(path, "w") as file:
                file.write(f"sim source {path}\n" * lines)
            reply = run(subject, f"sim source {path}")
            assert reply.failed
            assert (f"at most {MAX_NESTED} deep" if lines == 1 else f"more than {MAX_LINES} lines") in reply.text
            assert subject.sourcing == 0

    def test_ctrl_c_ends_all_of_it(self, tmp_path: os.PathLike[str]) -> None:
        inner, outer = f"{tmp_path}/inner", f"{tmp_path}/outer"
        for path, text in ((inner, "sim sleep 100\nquit\n"), (outer, f"sim source {inner}\nquit\n")):
            with open(path, "w") as file:
                file.write(text)
        subject = monitor_on()
        subject.host_files = True
        reply = subject.execute(f"sim source {outer}")
        assert reply.pending
        assert subject.sourcing == 2
        reply.cancel()
        subject.machine.advance(200 * 10**9)
        assert not subject.machine.over
        assert subject.sourcing == 0

    @pytest.mark.parametrize("what", ["missing", "folder", "fifo"])
    def test_a_file_that_cannot_be_read_is_an_error(self, tmp_path: os.PathLike[str], what: str) -> None:
        path = f"{tmp_path}/{what}"
        if what == "folder":
            os.mkdir(path)
        elif what == "fifo":
            os.mkfifo(path)
        subject = monitor_on()
        subject.host_files = True
        before = os.listdir("/proc/self/fd")
        reply = run(subject, f"sim source {path}")
        assert reply.failed
        assert path in reply.text
        assert os.listdir("/proc/self/fd") == before

    def test_clients_of_sockets_may_not_name_files(self) -> None:
        for line in ("sim source /etc/passwd", "sim save /tmp/x"):
            assert run(monitor_on(), line).refused is not None


class TestSave:
    def test_what_was_typed_becomes_a_script_that_runs(self, tmp_path: os.PathLike[str]) -> None:
        path = f"{tmp_path}/new"
        subject = monitor_on()
        subject.host_files = True
        subject.typed = [("balloon 256", True), ("nonsense", False), ("info status", True)]
        assert say(subject, f"sim save {path}") == f"3 lines in {path}\n"
        with open(path) as file:
            assert file.read() == "balloon 256\n# nonsense\ninfo status\n"
        assert (
            run(subject, f"sim save {path}").text == f"Error: sim save: '{path}' is there already: give another name\n"
        )
        reply: Reply = run(subject, f"sim source {path}")
        assert (reply.text, reply.failed) == ("VM status: running\n", False)

    def test_a_file_that_cannot_be_written_is_removed(self, tmp_path: os.PathLike[str]) -> None:
        subject = monitor_on()
        subject.host_files = True
        subject.typed = [("balloon 256", True)] * 100
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            reply = run(subject, f"sim save {tmp_path}/x")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert reply.text == f"Error: sim save: '{tmp_path}/x': File too large\n"
        assert not os.listdir(tmp_path)

    def test_without_lines_there_is_nothing_to_save(self, tmp_path: os.PathLike[str]) -> None:
        subject = monitor_on()
        subject.host_files = True
        assert run(subject, f"sim save {tmp_path}/x").failed
