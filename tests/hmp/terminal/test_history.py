"""The file with the lines that were typed."""

from __future__ import annotations

import os
import stat

import pytest

from hmp.terminal import history_kept
from hmp.terminal.hints import no_history_hint
from hmp.terminal.history import KEEP_BYTES, FileHistory, history_path


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
        if path is not None:
            assert not history_kept()

    def test_it_is_seen_beforehand_whether_lines_are_kept_and_nothing_is_made(self, path, monkeypatch):
        assert history_kept()
        assert not os.path.exists(os.path.dirname(path))
        FileHistory(path).store_string("x")
        assert history_kept()
        monkeypatch.setattr(os, "access", lambda place, mode: False)  # a disk that is read-only
        assert not history_kept()
        assert no_history_hint(500) == f"what you type is not kept for the next session: cannot write {path}"
        assert [no_history_hint(30), no_history_hint(5)] == ["no history is kept", ""]

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
