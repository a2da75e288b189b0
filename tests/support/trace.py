"""One `info balloon` through the modules, traced and drawn: python -m tests.support.trace makes the drawing again."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from html import escape
from types import FrameType
from typing import Any

from hmp.cli import choose
from hmp.config import Config
from tests.support.shell import ROOT
from tests.support.sockets import Served, play

DRAWING = ROOT / "docs/drawings/balloon.svg"
CLIENT = ("hmp.sockets.connection", "Connection.buffer_updated", "Connection.buffer_updated")
WAYS = {"pipe": ("hmp.pipe", "Runner.begin", "Runner.end"), "hmp": CLIENT, "qmp": CLIENT, "query": CLIENT}
"""Ways to ask, and the functions with which the module there begins and ends a command."""

LINES = ("info  balloon\n", "info balloon\n")
"""Spelled in two ways, for a monitor remembers what a line means."""

Stack = list[tuple[str, str]]
"""Modules of ours and their functions, from the bottom up."""


class Tracer:
    """Records the stack of our functions at each call within a command; those of the last command are kept."""

    def __init__(self, module: str, begin: str, end: str) -> None:
        self.stacks: list[Stack] = []
        self._module, self._begin, self._end = module, begin, end
        self._on = False

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            stack: Stack = []
            at: FrameType | None = frame
            while at is not None:
                name = at.f_globals.get("__name__", "")
                if name.startswith(("hmp.", "device.")):
                    stack.insert(0, (name, at.f_code.co_qualname))
                at = at.f_back
            if stack and stack[-1] == (self._module, self._begin):
                self._on, self.stacks = True, []
            if self._on and frame.f_globals.get("__name__") == (stack or [("", "")])[-1][0]:
                self.stacks.append(stack)
        elif event == "return" and frame.f_code.co_qualname == self._end:
            self._on = False


async def _hmp(served: Served) -> str:
    client = await served.hmp()
    return [await client.say(line.strip()) for line in LINES][-1]


async def _qmp(served: Served) -> str:
    client = await served.qmp()
    return str([(await client.line(line.strip()))["return"] for line in LINES][-1])


async def _query(served: Served) -> str:
    client = await served.qmp()
    return str([(await client.ask("query-balloon"))["return"] for _ in LINES][-1])


def _child(way: str) -> None:
    tracer = Tracer(*WAYS[way])
    said = [""]

    async def scene(served: Served) -> None:
        served.server.now = lambda: 0.0  # tracing is slow, but everything has to be one turn
        said[0] = await {"hmp": _hmp, "qmp": _qmp, "query": _query}[way](served)

    sys.setprofile(tracer)
    try:
        if way == "pipe":  # what it prints goes to stdout
            config = Config()
            config.sources = [("<stdin>", 0)]
            choose(config).run()
        else:
            play(scene)
    finally:
        sys.setprofile(None)
    sys.stderr.write(json.dumps([tracer.stacks, said[0]]))


@cache
def traced(way: str) -> list[Stack]:
    """Return the stack at each call of one `info balloon`. Another one runs before it, so that nothing is imported during the trace."""
    command = [sys.executable, "-m", "tests.support.trace", way]
    done = subprocess.run(command, input="".join(LINES), capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    stacks, said = json.loads(done.stderr)
    assert "actual" in (done.stdout or said).splitlines()[-1], said
    return [[(module, function) for module, function in stack] for stack in stacks]


def modules(stack: Stack) -> list[str]:
    """Return the modules of a stack; calls within a module do not count."""
    return [module for at, (module, _) in enumerate(stack) if not at or stack[at - 1][0] != module]


class Visit:
    """A module that is entered, by which functions, and what is entered from there before it is left."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.functions: list[str] = []
        self.inner: list[Visit] = []


def visits(stacks: list[Stack]) -> list[Visit]:
    """Put the calls together: a module that is entered again by the same one, with no other between, is one visit."""
    top = Visit("")
    for stack in stacks:
        at = top
        for depth, (module, function) in enumerate(stack):
            if not depth or stack[depth - 1][0] != module:
                if not at.inner or at.inner[-1].module != module:
                    at.inner.append(Visit(module))
                at = at.inner[-1]
                name = function.rpartition(".")[2]
                if not name.startswith(("<", "__")) and name not in at.functions:
                    at.functions.append(name)
    return top.inner


ROW, STEP, LEFT, WIDTH = 20, 18, 20, 640
HUES = {"hmp.qmp": "qmp", "hmp.monitor": "monitor", "hmp": "front", "device.machine": "machine", "device.balloon": "balloon",
        "device.virtio": "virtio", "device.guest": "guest", "device": "time"}  # fmt: skip
STYLE = """
:root { color-scheme: light dark }
.paper { fill: #fcfcfb; stroke: #d0d7de }
text { font: 13px ui-monospace, "DejaVu Sans Mono", monospace; fill: #24292f }
.b { font: 600 14px system-ui, "DejaVu Sans", sans-serif }
.f { fill: #57606a }
.front { fill: #8c959f } .qmp { fill: #bf3989 } .monitor { fill: #0b62c4 } .machine { fill: #1a7f37 }
.balloon { fill: #c2410c } .virtio { fill: #8250df } .guest { fill: #b58900 } .time { fill: #57606a }
@media (prefers-color-scheme: dark) {
.paper { fill: #15191f; stroke: #3a434f }
text { fill: #e6edf3 }
.f { fill: #9aa4af }
.qmp { fill: #ff80c8 } .monitor { fill: #6cb2ff } .machine { fill: #56d364 } .balloon { fill: #ffa657 }
.virtio { fill: #c297ff } .guest { fill: #e3b341 } .time { fill: #9aa4af }
}"""


def _named(visit: Visit) -> str:
    """Return the functions by which a module is entered, as many as a row has room for."""
    shown = ", ".join(visit.functions[:3])
    return f"{shown}, …" if len(visit.functions) > 3 else shown


def _draw(visit: Visit, depth: int, row: int, known: list[list[Any]], parts: list[str]) -> int:
    """Draw a visit from `row` on; returns the row below. What is `known` from above is drawn once."""
    x, y = LEFT + depth * STEP, row * ROW
    shape = _shape(visit)
    again = bool(visit.inner) and shape in known
    package = next(hue for prefix, hue in HUES.items() if visit.module.startswith(f"{prefix}."))
    what = "as above" if again else _named(visit)
    row += 1
    parts.append(
        f'<text x="{x + 12}" y="{y + 14}">{escape(visit.module)}<tspan class="f" dx="10">{escape(what)}</tspan></text>'
    )
    if not again:
        known.append(shape)
        for each in visit.inner:
            row = _draw(each, depth + 1, row, known, parts)
    parts.append(f'<rect class="{package}" x="{x}" y="{y + 3}" width="5" height="{row * ROW - y - 6}" rx="2"/>')
    return row


def _shape(visit: Visit) -> list[Any]:
    return [visit.module, visit.functions, [_shape(each) for each in visit.inner]]


def drawing(pipe: list[Stack], qmp: list[Stack]) -> str:
    """Return the drawing."""
    parts: list[str] = []
    known: list[list[Any]] = []
    row = 1
    for title, stacks in (("on a pipe", pipe), ("on a QMP socket, as human-monitor-command", qmp)):
        parts.append(f'<text class="b" x="{LEFT}" y="{row * ROW + 14}">info balloon {title}</text>')
        row += 1
        for visit in visits(stacks):
            row = _draw(visit, 0, row, known, parts)
        row += 1
    height = row * ROW
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" \
role="img" aria-labelledby="t d">
<title id="t">One info balloon through the modules</title>
<desc id="d">Each row is a module that is entered, and by which functions; its bar ends where it is left. What is indented \
is entered from there. Time goes down.</desc>
<!-- Made from a trace by python -m tests.support.trace -->
<style>{STYLE}
</style>
<rect class="paper" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>
""" + "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Draw."""
    if sys.argv[1:]:
        _child(sys.argv[1])
    else:
        DRAWING.write_text(drawing(traced("pipe"), traced("qmp")))


if __name__ == "__main__":
    main()
