"""Casts as files, and typed sessions recorded on a real terminal."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import stat
import sys

import pexpect
import pytest

from hmp.monitor import UsageError
from hmp.recording.cast import MARKER, OUTPUT, Cast, create, event_line, header_line
from hmp.recording.recorder import Recorder
from tests.support.casts import ROOT, environment, output, read, screen
from tests.support.timing import PATIENCE, until


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.cast"


def open_cast(path, failures: list[str], **options) -> Cast:
    descriptor = create(str(path), overwrite=False).descriptor
    return Cast(descriptor, columns=80, rows=24, title="t", on_failure=failures.append, **options)


class TestLines:
    def test_the_header(self):
        assert json.loads(header_line(80, 24, 'a "b"')) == {"version": 2, "width": 80, "height": 24, "title": 'a "b"'}

    def test_an_event_in_milliseconds(self):
        assert event_line(1_002_999_999, OUTPUT, "x\r\n") == '[1.002, "o", "x\\r\\n"]\n'

    @pytest.mark.parametrize("text", ["\x1b[31m", "\u2588\U0001f388", "\udcff", "\x00\x7f\x85", ""])
    def test_any_text_is_ascii_and_comes_back(self, text):
        line = event_line(0, MARKER, text)
        assert line.isascii()
        assert json.loads(line) == [0.0, "m", text]


class TestFile:
    def test_the_header_is_there_at_once_and_the_rest_after_a_flush(self, path):
        cast = open_cast(path, [])
        assert read(path)[1] == []
        cast.event(5_000_000, OUTPUT, "hello")
        assert read(path)[1] == []
        cast.flush()
        assert read(path)[1] == [(0.005, "o", "hello")]
        cast.close()

    def test_what_came_before_a_failure_is_kept(self, path):
        failures: list[str] = []
        cast = open_cast(path, failures)
        cast.event(0, OUTPUT, "hello")
        cast.fail("full")
        assert (read(path)[1], failures) == ([(0.0, "o", "hello")], ["the recording ends here: full"])
        cast.close()

    def test_live_events_are_written_as_they_come(self, path):
        cast = open_cast(path, [], live=True)
        cast.event(0, OUTPUT, "hello")
        assert read(path)[1] == [(0.0, "o", "hello")]
        cast.close()

    def test_a_write_that_fails_within_a_line_is_taken_back(self, path):
        failures: list[str] = []
        cast = open_cast(path, failures, live=True)
        cast.event(0, OUTPUT, "hello")
        size = path.stat().st_size
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
        try:
            cast.event(1, OUTPUT, "x" * 100)
            cast.event(2, OUTPUT, "not any more")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        cast.event(3, OUTPUT, "nor now")
        cast.close()
        assert failures == ["the recording ends here: File too large"]
        assert cast.failed
        assert path.stat().st_size == size
        assert read(path)[1] == [(0.0, "o", "hello")]

    def test_private_means_its_owner_alone(self, path):
        os.close(create(str(path), overwrite=False).descriptor)
        path.chmod(0o666)
        file = create(str(path), overwrite=True, private=True)
        file.settle(True)
        os.close(file.descriptor)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_a_link_is_not_followed_to_a_new_file(self, path, tmp_path):
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UsageError):
            create(str(path), overwrite=False)
        assert not (tmp_path / "elsewhere").exists()

    def test_a_name_that_drives_the_terminal_is_spelled_out(self, tmp_path):
        with pytest.raises(UsageError) as info:
            create(f"{tmp_path}/no/\x1b[2J", overwrite=False)
        assert "\x1b" not in str(info.value)


class Terminal(io.TextIOWrapper):
    """A stream that reports to be a terminal of a given size."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(os.fdopen(descriptor, "wb", buffering=0), "utf-8", write_through=True)


class TestRecorder:
    @pytest.fixture
    def terminal(self):
        master, slave = os.openpty()
        stream = Terminal(slave)
        yield stream
        stream.close()
        os.close(master)

    def record(self, terminal, path, times=(0, 0)) -> Recorder:
        clock = iter([*times, *range(10**9, 10**10, 10**8)])
        return Recorder(terminal, create(str(path), overwrite=False).descriptor, title="t", now=lambda: next(clock))

    def test_what_is_written_goes_to_both(self, terminal, path):
        recorder = self.record(terminal, path, (10**9, 3 * 10**9))
        recorder.stdout.buffer.write(b"a\nb\r\n")
        assert read(path)[1] == [(2.0, "o", "a\r\nb\r\n")]

    def test_a_character_in_two_writes_is_one(self, terminal, path):
        recorder = self.record(terminal, path)
        data = "█".encode()
        recorder.stdout.buffer.write(data[:1])
        recorder.stdout.buffer.write(data[1:])
        assert output(path) == "█"

    def test_a_new_size_is_an_event(self, terminal, path):
        import fcntl
        import struct
        import termios

        recorder = self.record(terminal, path)
        fcntl.ioctl(terminal.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        recorder.stdout.buffer.write(b"x")
        assert [event[1:] for event in read(path)[1]] == [("r", "100x30"), ("o", "x")]

    def test_questions_to_the_terminal_are_left_out(self, terminal, path):
        self.record(terminal, path).stdout.buffer.write(b"a\x1b[6nb")
        assert output(path) == "ab"

    def test_what_the_terminal_cannot_encode_is_written_as_without_a_recording(self, terminal, path):
        terminal.reconfigure(errors="backslashreplace")
        self.record(terminal, path).stdout.write("\udcff\n")
        assert output(path) == "\\udcff\r\n"

    def test_a_failure_is_reported_once_and_the_terminal_goes_on(self, terminal):
        recorder = Recorder(terminal, os.open("/dev/full", os.O_WRONLY), title="t")
        told: list[str] = []
        recorder.on_failure(told.append)
        assert recorder.stdout.buffer.write(b"x") == 1
        recorder.close()
        assert told == ["the recording ends here: No space left on device"]


class Seat:
    """A person at a terminal whose session is recorded."""

    def __init__(self, path, state, *options: str, **more: str) -> None:
        self.path = path
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "hmp", "--record", str(path), *options],
            env=environment(**{"TERM": "xterm-256color", "XDG_STATE_HOME": str(state), **more}),
            cwd=str(ROOT),
            dimensions=(24, 80),
            encoding="utf-8",
            timeout=PATIENCE,
        )

    def wait(self, text: str) -> None:
        """Wait until the recording shows a text or has shown it: a countdown may be over before a busy machine checks."""

        def shown() -> bool:
            # A line that is not complete is read again the next time.
            lines = self.path.read_text().rpartition("\n")[0].splitlines() if self.path.exists() else []
            return text in "".join(json.loads(line)[2] for line in lines[1:])

        until(shown)

    def type(self, keys: str) -> None:
        self.child.send(keys)

    def ends(self) -> int:
        self.child.expect(pexpect.EOF)
        self.child.close()
        return self.child.exitstatus if self.child.exitstatus is not None else -self.child.signalstatus


@pytest.fixture
def seat(path, tmp_path):
    seats: list[Seat] = []

    def sit(*options: str, path=path, **more: str) -> Seat:
        seats.append(Seat(path, tmp_path, *options, **more))
        return seats[-1]

    yield sit
    for found in seats:
        found.child.close(force=True)


@pytest.mark.slow
class TestTyped:
    def test_the_cast_shows_what_the_terminal_showed(self, seat, path):
        person = seat("--guest", "silent", "--timeout", "1.5")
        person.wait("(qemu)")
        person.type("info status\r")
        person.wait("VM status: running")
        person.type("nonsense\r")
        person.wait("unknown command")
        person.type("info balloon\r")
        person.wait("waiting for the guest")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        person.child.setwinsize(30, 100)
        person.wait("age=")
        person.type("\x04")
        assert person.ends() == 0
        header, events = read(path)
        assert (header["width"], header["height"]) == (80, 24)
        assert {kind for _, kind, _ in events} == {"o", "r"}
        assert [data for _, kind, data in events if kind == "r"] == ["100x30"]
        shown = screen(path)
        assert "(qemu) info status" in shown
        assert "VM status: running" in shown
        assert not any("waiting" in line for line in shown)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
    def test_it_is_valid_as_far_as_a_signal_let_it_come(self, seat, path, number):
        person = seat("--guest", "silent")
        person.wait("(qemu)")
        person.type("info balloon\r")
        person.wait("waiting for the guest")
        person.child.kill(number)
        person.ends()
        assert "waiting for the guest" in output(path)

    def test_ctrl_c_goes_on(self, seat, path):
        person = seat("--guest", "silent")
        person.wait("(qemu)")
        person.type("info balloon\r")
        person.wait("waiting for the guest")
        person.type("\x03")
        until(lambda: screen(path)[-1] == "(qemu)")
        person.type("info status\r")
        person.wait("VM status: running")
        person.type("quit\r")
        assert person.ends() == 0
        assert not any("waiting" in line for line in screen(path))

    def test_a_full_disk_is_reported_and_the_session_goes_on(self, seat, tmp_path):
        person = seat("--overwrite", path="/dev/full")
        person.child.expect(r"\[the recording ends here: No space left on device\]")
        person.type("info status\r")
        person.child.expect("VM status: running")
        person.type("quit\r")
        assert person.ends() == 1

    def test_an_existing_file_is_refused(self, seat, path):
        path.write_text("precious")
        person = seat()
        person.child.expect("exists; --overwrite replaces it")
        assert person.ends() == 2
        assert path.read_text() == "precious"

    def test_the_history_is_never_overwritten(self, seat, tmp_path):
        history = tmp_path / "hmp" / "history"
        history.parent.mkdir()
        history.write_text("info kvm\n")
        person = seat("--overwrite", path=str(history), XDG_STATE_HOME=str(tmp_path))
        person.child.expect("is the history of what was typed")
        assert person.ends() == 2
        assert history.read_text() == "info kvm\n"

    def test_a_terminal_that_echoes_by_itself_is_refused(self, seat, path):
        person = seat(TERM="dumb")
        person.child.expect("--record: TERM=dumb")
        assert person.ends() == 2
        assert not path.exists()

    def test_a_size_is_for_scripts(self, seat, path):
        person = seat("--size", "80x24")
        person.child.expect("--size: is for recorded scripts")
        assert person.ends() == 2
        assert not path.exists()
