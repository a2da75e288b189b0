"""Which front end the options, stdin and stdout ask for."""

from __future__ import annotations

import os

import pytest

from hmp.cli import choose
from hmp.monitor import UsageError
from hmp.options import parse

MONITOR = ["--monitor", "tcp:127.0.0.1:0"]
RECORD = ["--record", "x.cast", "--clock", "warp"]

CHOICES: list[tuple[list[str], str, str, list[str]]] = [
    ([], "Typed", "Piped", ["<stdin>"]),
    (["-c", "stop"], "Piped", "Piped", ["-c"]),
    (["-i", "-c", "stop"], "Typed", "Piped", ["-c", "<stdin>"]),
    (["-i"], "Typed", "Piped", ["<stdin>"]),
    (MONITOR, "Typed", "Served", ["<stdin>"]),
    ([*MONITOR, "-c", "stop"], "Served", "Served", ["-c"]),
    ([*MONITOR, "-i", "-c", "stop"], "Typed", "Served", ["-c", "<stdin>"]),
    ([*MONITOR, "--headless"], "Served", "Served", []),
    (RECORD, "Recorded", "Played", ["<stdin>"]),
    ([*RECORD, "-c", "stop"], "Played", "Played", ["-c"]),
]


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(("argv", "on_terminal", "elsewhere", "sources"), CHOICES)
def test_arguments_and_terminal_choose_the_front_end(
    argv: list[str],
    on_terminal: str,
    elsewhere: str,
    sources: list[str],
    terminal: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "isatty", lambda descriptor: terminal)
    monkeypatch.setenv("TERM", "xterm")
    config = parse(argv)
    assert config is not None
    front = choose(config)
    assert type(front).__name__ == (on_terminal if terminal else elsewhere)
    typed = ["<stdin>"] if type(front).__name__ in ("Typed", "Recorded") else []
    assert [source.name for source in front.sources()] + typed == sources
    assert (front.serving is not None) is bool(config.addresses)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_script_before_a_prompt_is_not_recorded(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda descriptor: terminal)
    config = parse([*RECORD, "-i", "-c", "stop"])
    assert config is not None
    with pytest.raises(UsageError, match="--record: not together with -i"):
        choose(config)
