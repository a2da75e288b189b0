"""Answers that are data: the shipped ones and those of --replies."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from device.machine.machine import Machine
from hmp.config import Config, make_machine
from hmp.monitor import UsageError
from hmp.monitor.replies import MAX_BYTES, load, shipped
from tests.hmp.qmp.test_protocol import Talk
from tests.support.machines import build, monitor, run
from tests.support.shell import hmp

QMP = {
    "query-block": [{"arguments": {"x": 1}, "return": ["one"]}, {"return": ["any"]}],
    "query-new": [{"arguments": {"a": True}, "return": {"b": None}}],
    "query-bad": [{"error": {"class": "DeviceNotFound", "desc": "gone"}}],
    "query-balloon": [{"arguments": {"faked": 1}, "return": {"actual": 1}}],
    "typed": [{"return": {}}],
}
SCHEMA = [
    {"name": "typed", "meta-type": "command", "arg-type": "typed-arg", "ret-type": "empty"},
    {"name": "typed-arg", "meta-type": "object",
     "members": [{"name": "n", "type": "int"}, {"name": "x", "type": "number", "default": None}]},
    {"name": "int", "meta-type": "builtin", "json-type": "int"},
    {"name": "number", "meta-type": "builtin", "json-type": "number"},
]  # fmt: skip
FILE = {
    "version": 1,
    "qemu": "8.2.1",
    "schema": SCHEMA,
    "qmp": QMP,
    "hmp": {"info block": "ide0: x\r\n", "frob  a": "y"},
}


def machine_with(path: Path, found: object = FILE, *, version: str | None = None) -> Machine:
    path.write_text(json.dumps(found))
    config = Config()
    config.replies, config.qemu_version, config.ram = str(path), version, 64 << 20
    machine = make_machine(config)
    machine.start()
    return machine


def test_the_first_answer_that_fits_is_given(tmp_path: Path) -> None:
    talk = Talk(machine_with(tmp_path / "r"))
    assert talk.ask("query-block", x=1) == {"return": ["one"]}
    assert talk.ask("query-block", x=2) == {"return": ["any"]}
    assert talk.ask("query-block") == {"return": ["any"]}
    assert talk.ask("query-new", a=True) == {"return": {"b": None}}
    assert talk.fails("query-new") == ("GenericError", "--replies has no answer for query-new with these arguments")
    assert talk.fails("query-bad") == ("DeviceNotFound", "gone")


def test_true_is_no_number(tmp_path: Path) -> None:
    # In Python True == 1.
    answers = [
        {"arguments": {"n": [True]}, "return": "true"},
        {"arguments": {"n": [1]}, "return": "one"},
        {"return": ""},
    ]
    talk = Talk(machine_with(tmp_path / "r", {"version": 1, "qmp": {"x": answers}}))
    told = [talk.ask("x", n=n)["return"] for n in ([1], [True], [1.0], [False], [0], [], [1, 1], 1, {"n": 1})]
    assert told == ["one", "true", "one", "", "", "", "", "", ""]


def test_of_two_spellings_of_a_line_the_first_is_answered(tmp_path: Path) -> None:
    machine = machine_with(tmp_path / "r", {"version": 1, "hmp": {"info  x": "first", "info x": "second"}})
    assert run(monitor(machine), "info x").text == "first"


def test_a_schema_that_refers_to_itself_or_to_no_type_ends_no_client(tmp_path: Path) -> None:
    def talk(*types: dict[str, Any]) -> Talk:
        command = {"name": "x", "meta-type": "command", "arg-type": "a", "ret-type": "a"}
        return Talk(machine_with(tmp_path / "r", {"version": 1, "schema": [command, *types],
                                                  "qmp": {"x": [{"return": 1}]}}))  # fmt: skip

    a = {"name": "a", "meta-type": "object", "members": [{"name": "t", "type": "a"}]}
    cases = {"tag": "t", "variants": [{"case": "b", "type": "b"}]}
    same = a | {"members": [], "tag": "t", "variants": [{"case": "b", "type": "a"}]}
    deep: object = {}
    for _ in range(900):
        deep = {"t": deep}
    for subject, given in ((talk(same), "b"), (talk(a), deep)):
        assert subject.fails("x", t=given) == ("GenericError", "the arguments of x are nested too deep")
    for kind in ({"meta-type": "builtin", "json-type": "int"}, {"meta-type": "enum", "members": [{"name": "q"}]}):
        assert talk(a | {"members": []} | cases, {"name": "b", **kind}).fails("x", t="b")[1].endswith("is unexpected")
    assert talk(a | {"members": [{"name": "t", "type": "x"}]}).ask("x", t=3) == {"return": 1}
    assert talk({"name": "a", "meta-type": "event"}).ask("x", t=3) == {"return": 1}


def test_a_command_that_no_answer_fits_runs_as_usual(tmp_path: Path) -> None:
    talk = Talk(machine_with(tmp_path / "r"))
    assert talk.ask("query-balloon", faked=1) == {"return": {"actual": 1}}
    assert talk.ask("query-balloon") == {"return": {"actual": 64 << 20}}
    assert talk.fails("query-balloon", faked=2) == ("GenericError", "Parameter 'faked' is unexpected")


def test_added_commands_are_listed_and_their_arguments_checked(tmp_path: Path) -> None:
    talk = Talk(machine_with(tmp_path / "r"))
    names = [each["name"] for each in talk.ask("query-commands")["return"]]
    assert {"query-new", "typed", "query-block", "query-balloon"} <= set(names)
    assert len(names) == len(set(names))
    schema = talk.ask("query-qmp-schema")["return"]
    assert [each for each in schema if each["name"] == "typed"] == [SCHEMA[0]]
    assert "query-new" in [each["name"] for each in schema if each["meta-type"] == "command"]
    assert talk.ask("typed", n=1) == {"return": {}}
    assert talk.fails("typed") == ("GenericError", "Parameter 'n' is missing")
    assert talk.fails("typed", n="x") == ("GenericError", "Invalid parameter type for 'n', expected: integer")
    assert [talk.ask("typed", n=1, x=x) for x in (2, 2.5)] == [{"return": {}}] * 2
    for wrong in ("2", True):
        assert talk.fails("typed", n=1, x=wrong) == ("GenericError", "Invalid parameter type for 'x', expected: number")


def test_lines_of_the_human_monitor(tmp_path: Path) -> None:
    machine = machine_with(tmp_path / "r")
    subject = monitor(machine)
    assert run(subject, " info  block").text == "ide0: x\n"
    assert run(subject, "frob a").text == "y"
    assert run(subject, "frob b").failed
    assert "frob a  -- answered by --replies\n" in run(subject, "help").text
    line = Talk(machine).ask("human-monitor-command", command_line="info block")
    assert line == {"return": "ide0: x\r\n"}


@pytest.mark.parametrize(("given", "told"), [(None, "8.2.1"), ("9.0.0", "9.0.0")])
def test_the_version_is_that_of_the_file(given: str | None, told: str, tmp_path: Path) -> None:
    machine = machine_with(tmp_path / "r", version=given)
    numbers = dict(zip(("major", "minor", "micro"), map(int, told.split(".")), strict=True))
    talk = Talk(machine)
    assert talk.ask("query-version")["return"]["qemu"] == numbers
    assert json.loads(talk.session.greeting())["QMP"]["version"]["qemu"] == numbers
    assert run(monitor(machine), "info version").text.startswith(f"{told} (hmp-emulator ")


def test_a_machine_without_replies_is_unchanged_by_those_of_another(tmp_path: Path) -> None:
    machine_with(tmp_path / "r")
    talk = Talk(build())
    assert talk.ask("query-block") == {"return": []}
    assert talk.fails("query-new") == ("CommandNotFound", "The command query-new has not been found")


WRONG: dict[str, Any] = {
    "is not a JSON object": [],
    "version 2 is not known, only 1": {"version": 2},
    "version 'nothing' is not known, only 1": {},
    "'odd' is not one of hmp, qemu, qmp, schema, version": {"version": 1, "odd": 1},
    "'7' is not a version such as 8.2.0": {"version": 1, "qemu": "7"},
    "schema is not a list as query-qmp-schema returns it": {"version": 1, "schema": [{"name": 1}]},
    "version True is not known, only 1": {"version": True},
    "version 1.0 is not known, only 1": {"version": 1.0},
    "version '1' is not known, only 1": {"version": "1"},
    "qemu is not a text such as '7.2.22'": {"version": 1, "qemu": 7.2},
    "qmp and hmp are not JSON objects": {"version": 1, "qmp": []},
    "qmp_capabilities cannot be answered from a file": {"version": 1, "qmp": {"qmp_capabilities": [{"return": {}}]}},
    "human-monitor-command cannot be": {"version": 1, "qmp": {"human-monitor-command": [{"return": ""}]}},
    "query-commands cannot be": {"version": 1, "qmp": {"query-commands": [{"return": []}]}},
    "qmp: x: not a list of answers": {"version": 1, "qmp": {"x": []}},
    "qmp: x: not a list of answers, each": {"version": 1, "qmp": {"x": [{"return": 1, "error": {}}]}},
    "qmp: x: not a list of answers, each with": {"version": 1, "qmp": {"x": [{"error": {"class": "A"}}]}},
    "qmp: x: not a list of answers, each with return": {"version": 1, "qmp": {"x": [{"return": 1, "arguments": []}]}},
    "hmp: 'info x': the answer is not a text": {"version": 1, "hmp": {"info x": 1}},
    "hmp: an empty line cannot be answered": {"version": 1, "hmp": {" ": ""}},
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_file_is_refused_in_one_line(words: str, tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_text(json.dumps(WRONG[words]))
    with pytest.raises(UsageError) as caught:
        load(str(path))
    assert str(caught.value).startswith(f"--replies '{path}': ")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("data", "words"), [
    (b"{", "is not JSON: Expecting property name"),
    (b"\xff{}", "is not JSON: not UTF-8"),
    (b"[" * 200_000, "is not JSON: nested too deep"),
    (b'{"version": 1, "hmp": {"\x1b": 1}}', "is not JSON: Invalid control character"),
    (b" " * (MAX_BYTES + 1), "is larger than 64 MiB"),
    (b'{"version": 1, "qmp": {"x": [{"return": NaN}]}}', "is not JSON: NaN"),
    (b'{"version": 1, "qmp": {"x": [{"return": 1e999}]}}', "is not JSON: 1e999"),
    (b'{"version": 1, "qmp": {"x": [{"return": -1e999}]}}', "is not JSON: -1e999"),
    (b'{"version": 1, "qmp": {"x": [{"return": {"a": 1, "b": 1, "a": 2}}]}}', "has 'a' twice in one object"),
    (b'{"version": 1, "version": 1}', "has 'version' twice"),
    (b'{"version": ' + b"1" * 5000 + b"}", "Exceeds the limit"),
    (b"", "is not JSON: Expecting value"),
], ids=range(12))  # fmt: skip
def test_what_is_no_json_is_refused_in_one_line(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(data)
    with pytest.raises(UsageError) as caught:
        load(str(tmp_path / "r"))
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_line_that_says_so_is_not_long(tmp_path: Path) -> None:
    for wrong in ({"version": "x" * 9999}, {"version": 1, "qemu": "x" * 9999}, {"version": 1, "x" * 9999: 1}):
        (tmp_path / "r").write_text(json.dumps(wrong))
        with pytest.raises(UsageError) as caught:
            load(str(tmp_path / "r"))
        assert len(str(caught.value)) < 500


UNSOUND = [
    {"name": "x", "meta-type": "object", "members": 5}, {"name": "x", "meta-type": "object"}, {"name": "x", "meta-type": "y"},
    {"name": "x", "meta-type": "object", "members": [{"name": "a"}]}, {"name": "x", "meta-type": ["object"]},
    {"name": "x", "meta-type": "object", "members": [], "variants": [{"case": "a", "type": "b"}]},
    {"name": "x", "meta-type": "object", "members": [], "variants": {}, "tag": "t"},
    {"name": "x", "meta-type": "builtin", "json-type": "object"}, {"name": "x", "meta-type": "enum", "values": [1]},
    {"name": "x", "meta-type": "enum", "members": [], "values": True},
    {"name": "x", "meta-type": "enum", "members": [], "values": "k"}, {"name": "x", "meta-type": "builtin", "json-type": []}, {"name": "x", "meta-type": "array", "element-type": None},
    {"name": "x", "meta-type": "alternate", "members": [{}]}, {"name": "x", "meta-type": "command", "arg-type": 1},
]  # fmt: skip


@pytest.mark.parametrize("entry", UNSOUND)
def test_a_schema_that_could_not_be_read_later_is_refused_at_once(entry: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "r").write_text(json.dumps({"version": 1, "schema": [entry]}))
    with pytest.raises(UsageError, match="schema is not a list as query-qmp-schema returns it"):
        load(str(tmp_path / "r"))


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(b"\xef\xbb\xbf" + json.dumps(FILE).encode())
    assert load(str(tmp_path / "r")).line("frob a") == "y"


def test_pipes_are_read_and_never_waited_for_without_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "r")
    with pytest.raises(UsageError, match="is not JSON: Expecting value"):
        load(str(tmp_path / "r"))  # nobody writes to it: it does not wait
    reading, writing = os.pipe()
    writer = threading.Thread(target=lambda: (os.write(writing, json.dumps(FILE).encode()), os.close(writing)))
    writer.start()
    assert load(f"/dev/fd/{reading}").line("frob a") == "y"
    writer.join()
    os.close(reading)


def test_no_more_is_read_than_a_file_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hmp.monitor.replies.MAX_BYTES", 10)
    reading, writing = os.pipe()
    os.write(writing, b" " * 11)
    with pytest.raises(UsageError, match="is larger than"):
        load(f"/dev/fd/{reading}")  # the writer goes on, and load does not wait for its end
    os.close(reading)
    os.close(writing)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "r").touch(0)
    with pytest.raises(UsageError, match="Permission denied"):
        load(str(tmp_path / "r"))


def test_the_options_replies_and_qemu_version_take_or_refuse_their_values(tmp_path: Path) -> None:
    (tmp_path / "r").write_text(json.dumps(FILE))
    assert hmp("--replies", "r", "-c", "frob a", cwd=tmp_path) == (0, "y", "")
    assert hmp("--replies", "nosuch", cwd=tmp_path) == (2, "", "hmp: --replies 'nosuch': No such file or directory\n")
    ended = hmp("--replies", ".", cwd=tmp_path)
    assert (ended.status, ended.err) == (2, "hmp: --replies '.': Is a directory\n")
    assert hmp("--qemu-version", "9.1.0", "-c", "info version").out.startswith("9.1.0 (")
    assert hmp("--qemu-version", "9.1").err == "hmp: --qemu-version: '9.1' is not a version such as 8.2.0\n"


def test_each_recorded_topic_is_a_topic_and_prints_its_text() -> None:
    lines = {line: text for line, text in shipped().hmp.items() if line.startswith("info ")}
    assert lines
    for line, text in lines.items():
        assert run(monitor(build()), line).text == text.replace("\r\n", "\n")
