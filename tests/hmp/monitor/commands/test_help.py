"""`help` and bare `info`: generated from the table that dispatches, one line for each."""

from __future__ import annotations

import pytest

from hmp.monitor.registry import COMMANDS, TABLE, Command
from tests.support.machines import monitor_on, run, say, state_of

EVERYTHING: list[tuple[str, Command]] = []
for _command in COMMANDS:
    EVERYTHING.append((_command.name.split("|")[0], _command))
    for _name, _topic in (_command.topics or {}).items():
        EVERYTHING.append((f"{_command.name} {_name}", _topic))


def help_of(words: str) -> list[str]:
    text = say(monitor_on(), words)
    assert text.endswith("\n")
    return text.removesuffix("\n").split("\n")


def test_help_is_one_line_for_each_command_none_blank() -> None:
    lines = help_of("help")
    assert all(line.strip() for line in lines)
    assert [line for line in lines if " -- " not in line] == ["[simulator]"]
    heading = lines.index("[simulator]")
    assert all(line.startswith("sim ") for line in lines[heading + 1 :])
    assert not any(line.startswith("sim ") for line in lines[:heading])


def test_programs_find_the_names_before_the_first_blank() -> None:
    lines = help_of("help")
    named = {line.split(" ")[0] for line in lines if " -- " in line}
    assert named == {command.name for command in COMMANDS}


def test_help_says_the_same_whatever_it_is_called() -> None:
    assert help_of("help") == help_of("?") == help_of("help  ") == help_of("?\t")


@pytest.mark.parametrize(("name", "command"), EVERYTHING, ids=lambda each: each if isinstance(each, str) else "")
def test_help_names_command_arguments_and_text(name: str, command: Command) -> None:
    lines = help_of(f"help {name}")
    if command.topics is None:
        assert lines == [f"{name.rpartition(' ')[0]} {command.name} {command.usage} -- {command.help}".lstrip()]
    else:
        topics = [line.split(" ")[1] for line in lines if line.startswith(f"{name} ") and " -- " in line]
        assert [topic for topic in topics if not topic.startswith("[")] == list(command.topics)


@pytest.mark.parametrize("line", ["help stop", "help s", "? s", 'help "stop"', "help  s  x y", 'help "s" '])
def test_help_of_one_command_by_each_of_its_names(line: str) -> None:
    assert help_of(line) == ["stop|s  -- stop the VM"]


def test_info_alone_is_help_of_info() -> None:
    assert help_of("info") == help_of("help info")
    assert all(line.startswith("info ") for line in help_of("info"))
    assert len(help_of("info")) == len(TABLE["info"].topics or {})


def test_help_sim_begins_with_sim_itself() -> None:
    first, *topics = help_of("help sim")
    assert first.startswith("sim [topic] -- ")
    assert len(topics) == len(TABLE["sim"].topics or {})


def test_help_of_every_argument_names_it() -> None:
    for name, command in EVERYTHING:
        needed = [each for each in command.parameters if not each[2]]
        assert bool(command.usage) == bool(command.parameters or command.topics), name
        assert len(command.usage.split()) >= len(needed), name


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("help nosuch", "nosuch"),
        ("help info nosuch", "info nosuch"),
        ("help info  nosuch more", "info nosuch"),
        ("help sim nosuch", "sim nosuch"),
        ("help info/ balloon", "info/"),
        ('help ""', ""),
        ('help "info balloon"', "info balloon"),
        ("help stop|s", "stop|s"),
    ],
)
def test_help_of_what_is_unknown_says_so(line: str, told: str) -> None:
    subject = monitor_on()
    before = state_of(subject.machine)
    reply = run(subject, line)
    assert (reply.text, reply.failed) == (f"unknown command: '{told}'\n", True)
    assert state_of(subject.machine) == before


@pytest.mark.parametrize(
    ("line", "text"),
    [('help "stop', "unterminated string\n"), (r'help "s\q"', "unsupported escape code: '\\q'\n")],
)
def test_help_of_what_cannot_be_read_says_why(line: str, text: str) -> None:
    reply = run(monitor_on(), line)
    assert (reply.text, reply.failed) == (text, True)


def test_no_text_is_longer_than_a_terminal_is_wide() -> None:
    assert [line for line in help_of("help") if len(line) > 100] == []
