"""Which modules may import which libraries, by pattern; the other half is import-linter's, in pyproject.toml."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ONLY_IN: dict[str, list[str]] = {
    "asyncio": ["hmp.aiolines", "hmp.drive", "hmp.sockets.connection", "hmp.sockets.fleet", "hmp.sockets.hangups", "hmp.sockets.port", "hmp.sockets.server",
                "hmp.sockets.service", "hmp.sockets.stdio", "hmp.testing.*", "hmp.terminal.*",
                "hmp.recording.pace", "hmp.recording.player",
                "hmp.web"],
    "click": ["hmp.command_line", "hmp.options", "hmp.recording.cast2svg", "hmp.shells", "hmp.qemu.table"],
    "prompt_toolkit": ["hmp.terminal.*"],
    "rich": ["hmp.terminal.*"],
    "pyte": ["hmp.recording.camera", "hmp.recording.svg_terminal"],
    "select": ["hmp.pipe", "hmp.streams", "hmp.sockets.hangups", "hmp.sockets.stdio", "hmp.terminal.*", "device.guest.uml.*",
               "device.guest.vhost_user.*"],
    "socket": ["hmp.attach.link", "hmp.qemu.chardevs", "hmp.sockets.listeners", "hmp.sockets.port", "hmp.sockets.server", "hmp.sockets.stdio",
               "device.guest.vhost_user.*"],
    "subprocess": ["device.guest.uml.*", "hmp.attach.virsh"],
    "threading": ["hmp.testing.host"],
    "multiprocessing": [],
    "concurrent": [],
}  # fmt: skip

PIPED = [
    "device",
    "device.[!g]*",
    "device.guest",
    "device.guest.table",
    "device.guest.model*",
    "hmp.cli",
    "hmp.config",
    "hmp.pipe",
    "hmp.streams",
    "hmp.monitor*",
]
NEVER_PIPED = {"device.machine.snapshot", "device.machine.states", "hmp.monitor.completion", "hmp.monitor.qom",
               "hmp.monitor.replies", "hmp.monitor.session", "hmp.monitor.snapshots"}  # fmt: skip
"""Imported by the commands that need it."""

SLOW_TO_IMPORT = ["dataclasses", "inspect", "enum", "typing", "re", "json", "logging", "argparse", "pathlib"]
"""What no module that a pipe may run through imports at its top."""


def modules() -> list[str]:
    paths = [path for package in ("device", "hmp") for path in (ROOT / package).rglob("*.py")]
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths)


def source(module: str) -> str:
    path = ROOT.joinpath(*module.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


def imports(tree: ast.AST, *, deep: bool = True) -> Iterator[str]:
    """The modules that are imported when this runs, not those of type checkers; with `deep`, inside functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for rest in node.orelse:
                yield from imports(ast.Module([rest], []), deep=deep)
        elif isinstance(node, ast.Import):
            yield from [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "no relative imports"
            yield node.module or ""
        elif deep or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from imports(node, deep=deep)


IMPORTS = {module: set(imports(ast.parse(source(module)))) for module in modules()}


@pytest.mark.parametrize("library", list(ONLY_IN))
def test_a_library_is_imported_only_where_it_belongs(library: str) -> None:
    users = [name for name, used in IMPORTS.items() if any(each.split(".")[0] == library for each in used)]
    others = [name for name in users if not any(fnmatchcase(name, pattern) for pattern in ONLY_IN[library])]
    assert others == []


@pytest.mark.parametrize("module", [name for name in modules() if name.split(".")[0] == "device"])
def test_the_core_never_imports_the_monitor(module: str) -> None:
    assert not [each for each in IMPORTS[module] if each.split(".")[0] == "hmp"]


@pytest.mark.parametrize("module", [name for name in modules() if name.split(".")[0] == "device"])
def test_the_core_needs_nothing_but_the_standard_library(module: str) -> None:
    tops = {each.split(".")[0] for each in IMPORTS[module]}
    assert tops - {"device", "__future__"} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    "module",
    [name for name in modules() if name not in NEVER_PIPED and any(fnmatchcase(name, each) for each in PIPED)],
)
def test_the_piped_path_imports_nothing_slow_at_the_top(module: str) -> None:
    at_once = {each.split(".")[0] for each in imports(ast.parse(source(module)), deep=False)}
    assert not at_once & set(SLOW_TO_IMPORT)


LONG = {
    "device.machine.machine": "one class: what happens to a machine, and how it is told",
    "hmp.qemu.command_line": "one command line: its options depend on one another, and errors come in QEMU's order",
    "hmp.recording.svg_terminal": "one table of sequences: what a terminal does that pyte does not",
    "hmp.sockets.connection": "one state machine: what is done for a client, and when",
}
"""Modules that were looked at twice, and why they stay whole."""


@pytest.mark.parametrize("module", modules())
def test_a_module_over_400_lines_was_looked_at_twice(module: str) -> None:
    # Comments do not count: a limit on them would make a reason cost a line of code.
    lines = sum(not line.lstrip().startswith("#") for line in source(module).splitlines())
    assert (lines > 400) == (module in LONG), f"{lines} lines"
