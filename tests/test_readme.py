"""What README and docs show is what happens: every command of theirs is run, every name looked up."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import click
import pytest

from device.balloon.spec import STATS_TABLE
from device.guest.keys import KEYS
from device.guest.model import host
from device.guest.table import PROFILES
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.registry import TABLE
from hmp.options import command
from tests.support.shell import ROOT, environment, shell

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROMPT = "$ "
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^```\w+\n((?:#|//) ([\w.-]+\.\w+)\n.*?)^```$", re.MULTILINE | re.DOTALL)
"""A block whose first line is a comment with a file's name is that file, in the folder of the page's commands."""
OTHER_PROGRAMS = ["qemu-system-x86_64", "node", "go", "socat", "nc", "telnet", "agg", "virsh"]


def blocks() -> list[object]:
    """Each ```console block of each page: what stands behind `$ ` is typed, the rest is printed."""
    found: list[object] = []
    for page in PAGES:
        text = page.read_text()
        for number, block in enumerate(BLOCK.findall(text), 1):
            slow = [pytest.mark.slow] if "go run" in block else []  # it compiles
            found.append(pytest.param(block, FILE.findall(text), id=f"{page.name}-{number}", marks=slow))
    return found


def commands(block: str) -> list[tuple[str, str]]:
    """Each command of a block with what it prints. It goes on in lines that begin with `> `, or after a backslash."""
    found: list[tuple[str, str]] = []
    typing = False
    for line in block.splitlines():
        if typing or (found and not found[-1][1] and line.startswith("> ")):
            typed, printed = found.pop()
            found.append((f"{typed}\n{line.removeprefix('> ')}", printed))
        elif line.startswith(PROMPT):
            found.append((line.removeprefix(PROMPT), ""))
        else:
            assert found, f"a console block begins with a command, not with {line!r}"
            typed, printed = found.pop()
            found.append((typed, f"{printed}{line}\n"))
        typing = found[-1][0].endswith("\\")
    return found


@pytest.mark.parametrize(("block", "files"), blocks())
def test_what_a_page_shows_is_what_is_printed(block: str, files: list[tuple[str, str]], tmp_path: Path) -> None:
    for content, name in files:
        (tmp_path / name).write_text(content)
    for program in OTHER_PROGRAMS:
        if re.search(rf"\b{program}\b", block) and shutil.which(program, path=environment()["PATH"]) is None:
            pytest.skip(f"needs {program} on PATH to run what the page shows")
    for typed, printed in commands(block):
        assert (typed, shell(typed, cwd=tmp_path, merged=True).out) == (typed, printed)


def test_the_readme_has_something_to_run() -> None:
    assert len(BLOCK.findall(PAGES[0].read_text())) >= 2


def table(page: str, heading: str) -> dict[str, str]:
    """The rows of the table whose first heading is `heading`: first cell, the rest."""
    lines = page.split(f"| {heading} |", 1)[1].splitlines()[2:]
    rows = {}
    for line in lines:
        if not line.startswith("|"):
            break
        first, rest = line.strip("| ").split(" | ", 1)
        rows[first.strip("`")] = rest
    return rows


def test_the_readme_knows_every_guest_and_no_other() -> None:
    shown = table(PAGES[0].read_text(), "guest")
    assert list(shown) == list(PROFILES)
    for name, profile in PROFILES.items():
        assert shown[name].startswith(profile.help), name


def options() -> set[str]:
    return {"--help"} | {
        spelled for each in command().params if isinstance(each, click.Option) for spelled in each.opts
    }


SPAN = re.compile(r"`([^`\n]+)`")


def code(text: str) -> list[str]:
    """The pieces of code on a page: spans, and the lines of blocks."""
    inside, found = False, []
    for line in text.splitlines():
        if line.startswith("```"):
            inside = not inside
        elif inside or line.startswith("    "):
            found.append(line)
        else:
            found += SPAN.findall(line)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_options_that_a_page_names_exist(page: Path) -> None:
    known = options()
    for piece in code(page.read_text()):
        words = re.split(r"[\s|;<>'\"]+", piece.partition("  #")[0])
        alone = piece.startswith("-") and page == PAGES[0]  # elsewhere it may be another program's
        if alone or "hmp" in [word.rpartition("/")[2] for word in words]:
            named = {word.partition("=")[0] for word in words if re.fullmatch(r"--[a-z][a-z-]*(=.*)?", word)}
            assert named <= known, piece


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_guests_and_dialects_that_a_page_names_exist(page: Path) -> None:
    for piece in code(page.read_text()):
        for spec in re.findall(r"--guest[= ]([a-z][\w.,=+-]*)", piece):
            name, *pairs = spec.split(",")
            assert name in PROFILES, piece
            assert all(pair.partition("=")[0] in KEYS for pair in pairs), piece
        for dialect in re.findall(r"dialect[= ]([a-z]\w*)", piece):
            assert dialect in DIALECTS, piece


def test_the_commands_that_the_readme_names_exist() -> None:
    topics = {f"sim {name}" for name in TABLE["sim"].topics or {}} | {
        f"info {name}" for name in TABLE["info"].topics or {}
    }
    for piece in code(PAGES[0].read_text()):
        if re.match(r"(sim|info) [a-z]", piece):
            assert " ".join(piece.split()[:2]) in topics, piece


class TestNumbers:
    """docs/numbers.md says what the tables of the program say."""

    PAGE = (ROOT / "docs/numbers.md").read_text()

    def test_it_has_every_statistic_with_its_unit_in_the_order_of_the_tags(self) -> None:
        rows = table(self.PAGE, "statistic")
        assert [(name, rest.split(" | ")[0]) for name, rest in rows.items()] == [(s.name, s.unit) for s in STATS_TABLE]

    def test_the_sources_are_what_the_host_guest_reads(self) -> None:
        sources = [rest.split(" | ")[1].partition(",")[0].strip("`") for rest in table(self.PAGE, "statistic").values()]
        read = {tag: name.decode().strip(":") for tag, name, _ in host._VMSTAT + host._MEMINFO}
        read[host._STALLS_TAG] = host._STALLS.decode().strip() + "*"
        assert dict(enumerate(sources)) == read

    def test_each_number_of_the_line_is_explained_with_its_value(self) -> None:
        line = next(printed for _, printed in commands(BLOCK.findall(self.PAGE)[0])).splitlines()[1]
        numbers = dict(pair.split("=") for pair in line.removeprefix("balloon: ").split(","))
        rows = {name: re.split(r" *\| *", rest) for name, rest in table(self.PAGE, "number").items()}
        assert {name: rest[0].split()[0] for name, rest in rows.items()} == numbers
        for name, (value, mib, _) in rows.items():
            if mib:
                assert float(mib) == round(int(numbers[name]) / (1 if "MiB" in value else 1 << 20), 1), name
