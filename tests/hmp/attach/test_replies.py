"""--save-replies: what a VM is asked, and the file that results."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from hmp.attach.replies import collect, questions, save, topics
from hmp.monitor import ConnectError, UsageError
from tests.support.programs import Program
from tests.support.shell import hmp
from tests.support.vms import Pair

SCHEMA = [
    {"name": "query-block", "meta-type": "command", "arg-type": "0", "ret-type": "1"},
    {"name": "query-blockstats", "meta-type": "command", "arg-type": "2", "ret-type": "1"},
    {"name": "query-stats", "meta-type": "command", "arg-type": "3", "ret-type": "1"},
    {"name": "query-balloon", "meta-type": "command", "arg-type": "0", "ret-type": "1"},
    {"name": "eject", "meta-type": "command", "arg-type": "0", "ret-type": "1"},
    {"name": "0", "meta-type": "object", "members": []},
    {"name": "2", "meta-type": "object", "members": [{"name": "query-nodes", "type": "bool", "default": None}]},
    {"name": "3", "meta-type": "object", "members": [{"name": "target", "type": "4"}]},
]
HELP = (
    "info block [-n] [-v] [device] -- show info of block devices\r\n"
    "info balloon  -- show balloon information\r\n"
    "info virtio-status path -- Display status\r\n"
    "info mtree [-f] -- show memory tree\r\n"
    "info qdm  -- show qdev device model list\r\n"
    "info sev  -- show SEV information\r\n"
)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(
        tmp_path / "q",
        query_qmp_schema=SCHEMA,
        query_block=[{"device": "disk0", "locked": False}],
        query_blockstats="GenericError",
        human_monitor_command=lambda given: HELP if given["command-line"] == "help info" else "text é\r\n",
    )
    yield made
    made.close()


def test_only_what_needs_no_argument_and_hmp_does_not_answer_itself_is_asked() -> None:
    assert questions(SCHEMA) == ["query-block", "query-blockstats"]
    assert topics(HELP) == ["block", "sev"]


def test_answers_and_errors_are_kept_as_they_are(pair: Pair) -> None:
    found: list[object] = []
    pair.machine.run(collect(pair.machine), lambda *end: found.extend(end))
    pair.settle(lambda: found)
    assert found == [
        {
            "version": 1,
            "qemu": "7.2.0",
            "schema": SCHEMA,
            "qmp": {
                "query-block": [{"return": [{"device": "disk0", "locked": False}]}],
                "query-blockstats": [{"error": {"class": "GenericError", "desc": "no query-blockstats"}}],
            },
            "hmp": {"info block": "text é\n", "info sev": "text é\n"},
        },
        None,
    ]


def test_a_file_that_is_there_stays(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("mine")
    with pytest.raises(UsageError, match=r"--save-replies '.*': File exists"):
        save(pair.machine, str(tmp_path / "r.json"))
    assert (tmp_path / "r.json").read_text() == "mine"
    assert pair.peer.said == []


def test_without_answers_no_file_is_left(pair: Pair, tmp_path: Path) -> None:
    pair.peer.close()
    with pytest.raises(ConnectError):
        save(pair.machine, str(tmp_path / "r.json"))
    assert not (tmp_path / "r.json").exists()


@pytest.mark.slow
def test_the_program_saves_a_private_file_of_replies(tmp_path: Path) -> None:
    with Program("--headless", "--qmp", f"unix:{tmp_path}/q"):
        ended = hmp("--attach", f"unix:{tmp_path}/q", "--save-replies", f"{tmp_path}/r.json", "-c", "info status")
    assert (ended.status, ended.out, ended.err) == (0, "VM status: running\n", "")
    found = json.loads((tmp_path / "r.json").read_text())
    assert (found["version"], found["qemu"]) == (1, "7.2.0")
    assert stat.S_IMODE((tmp_path / "r.json").stat().st_mode) == 0o600
