"""What QEMU 7.2 said, exchange by exchange, and a walk over the whole command table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hmp.monitor.registry import COMMANDS, TABLE, Command
from tests.support.machines import build, monitor, monitor_on, run, state_of

SCENES = sorted((Path(__file__).parents[1] / "conformance" / "scenes").glob("hmp-*.json"))


@pytest.mark.parametrize("path", SCENES, ids=lambda path: path.stem)
def test_every_exchange_of_a_recorded_scene_is_repeated_word_for_word(path: Path) -> None:
    scene = json.loads(path.read_text())
    setting = scene["machine"]
    machine = build(
        "linux" if setting["driver"] else "nodriver",
        memory=setting["memory"],
        paused=setting["paused"],
        balloon=setting["balloon"],
    )
    subject = monitor(machine, "qemu")
    compared = 0
    for step in scene["steps"]:
        reply = run(subject, step["send"])
        if "skip" not in step:
            assert (step["send"], reply.text) == (step["send"], step["reply"])
            compared += 1
    assert compared


def test_the_scenes_are_there() -> None:
    assert len(SCENES) == 10


# The table.

PATH = "/machine/peripheral/balloon0/virtio-backend"
LEAVES: dict[str, Command] = {}
for _top in COMMANDS:
    LEAVES[_top.name.split("|")[0]] = _top
    for _name, _topic in (_top.topics or {}).items():
        LEAVES[f"{_top.name} {_name}"] = _topic

SAMPLES = {
    "s": "x",
    "i": "1",
    "l": "1",
    "M": "1",
    "Z": "1M",
    "T": "1",
    "S": "x",
    "O": "virtio-balloon-pci,id=b9",
    "F": "x",
    "B": "x",
    "/": "/x",
}
"""An argument of each type that parses."""


@pytest.mark.parametrize("name", list(LEAVES))
def test_every_handler_is_where_the_table_says(name: str) -> None:
    assert callable(LEAVES[name].handler())


@pytest.mark.parametrize("name", list(LEAVES))
def test_every_command_has_a_line_of_help(name: str) -> None:
    reply = run(monitor_on(), f"help {name}")
    assert not reply.failed
    lines = reply.text.splitlines()
    assert lines
    assert all(" -- " in line and line.partition(" -- ")[2] for line in lines)
    if LEAVES[name].topics is None:
        assert lines[0].startswith(name.split()[0])


def test_help_alone_names_every_command_once() -> None:
    text = run(monitor_on(), "help").text
    shown = [line.partition(" -- ")[0].rstrip() for line in text.splitlines()]
    for command in COMMANDS:
        assert shown.count(f"{command.name} {command.usage}".rstrip()) == 1
    assert "[simulator]\n" in text
    assert "\n\n" not in text


INFO_ARGUMENTS = {"virtio-status": PATH, "virtio-queue-status": f"{PATH} 0", "virtio-queue-element": f"{PATH} 2"}


SILENT = {f"info {word}" for word in ("block", "blockstats", "capture", "chardev", "iothreads", "memory-devices",
                                      "network", "rdma", "tpm", "usernet")}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in LEAVES if name.startswith("info ")])
@pytest.mark.parametrize("dialect", ["seed", "qemu", "pve"])
def test_every_info_topic_answers(name: str, dialect: str) -> None:
    subject = monitor_on(dialect=dialect, name="vm")
    subject.history.add(name)
    reply = run(subject, f"{name} {INFO_ARGUMENTS.get(name.removeprefix('info '), '')}")
    assert reply.failed is reply.text.startswith("Error: ")
    assert reply.text.endswith("\n") or (name in SILENT and not reply.text)


TOO_FEW = [
    (name, " ".join(SAMPLES[kind] for _, kind, _ in needed[:count]))
    for name, command in LEAVES.items()
    for needed in [[each for each in command.parameters if not each[2] and each[1][0] != "-"]]
    for count in range(len(needed))
    if not command.host  # this command is refused here before its arguments are read
]


@pytest.mark.parametrize(("name", "given"), TOO_FEW)
def test_too_few_arguments_are_refused_in_words_and_change_nothing(name: str, given: str) -> None:
    machine = build()
    before = state_of(machine)
    reply = run(monitor(machine), f"{name} {given}".rstrip())
    assert reply.failed
    assert "expected" in reply.text or "unexpected end" in reply.text or "missing" in reply.text
    assert reply.text.endswith("\n")
    assert state_of(machine) == before


TOO_MANY = [
    (name, " ".join(SAMPLES[kind] for _, kind, _ in command.parameters if kind[0] != "-"))
    for name, command in LEAVES.items()
    if command.topics is None and not command.host and not any(kind == "S" for _, kind, _ in command.parameters)
]


@pytest.mark.parametrize(("name", "given"), TOO_MANY)
def test_too_many_arguments_are_refused_in_words_and_change_nothing(name: str, given: str) -> None:
    machine = build()
    before = state_of(machine)
    reply = run(monitor(machine), f"{name} {given} extra".replace("  ", " "))
    assert reply.failed
    shown = LEAVES[name].name
    assert reply.text == (
        f'{shown}: extraneous characters at the end of line\nTry "help {name}" for more information\n'
    )
    assert state_of(machine) == before


@pytest.mark.parametrize("name", [name for name, command in TABLE.items() if command.topics is not None])
def test_an_unknown_topic_is_an_unknown_command(name: str) -> None:
    reply = run(monitor_on(), f"{name} nosuch")
    assert (reply.failed, reply.text) == (True, f"unknown command: '{name} nosuch'\n")


@pytest.mark.parametrize("line", ["info virtio-queue-status", "info virtio-queue-element"])
@pytest.mark.parametrize("number", ["-1", "4294967296", "0x100000000"])
def test_a_32_bit_argument_takes_neither_more_bits_nor_a_sign(line: str, number: str) -> None:
    topic = line.split()[1]
    assert run(monitor_on(), f"{line} {PATH} {number}").text == (
        f"'{topic}' has failed: integer is for 32-bit values\nTry \"help {line}\" for more information\n"
    )
