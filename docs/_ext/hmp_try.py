"""Sphinx: terminals in pages, made from npm's packages in .npm (`make docs`) and the wheel of these sources.

"Try it here" has one in its place, and a page with commands one in a panel, where "run here" types them. Without the
packages the former says why it has none, and there is no "run here". Nothing comes from another origin.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hmp_run
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from device.guest.keys import KEYS
from device.guest.table import PROFILES
from hmp.config import CLOCKS
from hmp.monitor.registry import TABLE
from hmp.monitor.snapshots import BYTES_LIMIT, SUFFIX
from hmp.web import RAM

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "docs/try"
PACKAGES = Path(os.environ.get("HMP_NPM", ROOT / ".npm")) / "node_modules"
"""Where npm put its packages; HMP_NPM names the folder above, for a site without them."""

FROM_NPM = [
    "pyodide/pyodide.mjs", "pyodide/pyodide.asm.mjs", "pyodide/pyodide.asm.wasm", "pyodide/python_stdlib.zip",
    "pyodide/pyodide-lock.json", "@xterm/xterm/lib/xterm.mjs", "@xterm/xterm/css/xterm.css",
    "@xterm/addon-fit/lib/addon-fit.mjs",
]  # fmt: skip
WITH_PROGRESS = ["pyodide.asm.wasm", "python_stdlib.zip", "pyodide.asm.mjs", "pyodide-lock.json"]
"""What the worker loads on the reader's click, and the wheel; the rest is small, or there already."""

MISSING = (
    "The terminal is missing here: this site was built without npm's packages (make docs, with node and npm, has it)."
)
UNLOADED = "The terminal needs JavaScript; if nothing else comes here, its script could not be loaded."

TYPED = {"Tab": "\\t", "↑": "\\u001b[A", "Ctrl-C": "\\u0003"}
"""What a phone's keyboard lacks, as JSON spells it."""

CONTROLS = [
    "info balloon", "balloon", "stop", "cont", "savevm", "loadvm", "sim hang", "sim wake", "sim delay", "sim drop",
    "sim panic", "sim alloc", "sim free", "sim driver", "sim set", "sim sleep", "sim stats", "sim chart",
    "system_reset",
]  # fmt: skip
"""The commands that have a control."""

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval' {scripts}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'self'"
)
"""xterm.js writes its colours into style elements; of scripts only the site's files and the theme's own lines run."""


def _options(values: Iterable[str], chosen: str = "") -> str:
    return "".join(f"<option{' selected' * (value == chosen)}>{html.escape(value)}</option>" for value in values)


def _form(inside: str, name: str = "", help: str = "") -> str:
    """A form whose controls each have a part of what it types, with % for their value; empty ones have none."""
    title = html.escape(help, quote=True)
    return f'<form data-types title="{title}">{inside}<button>{name or "type it"}</button></form> '


def _guest_picker() -> str:
    guests = {name: each for name, each in PROFILES.items() if not each.host}
    inside = f"<label>guest <select data-part='sim guest %'>{_options(guests)}</select></label> "
    for key in dict.fromkeys(key for each in guests.values() for key in each.keys):
        value, _, help = KEYS[key][1].partition(": ")
        takers = " ".join(name for name, each in guests.items() if key in each.keys)
        inside += (
            f"<label data-for='{takers}' title='{html.escape(help, quote=True)}'>{key} "
            f"<input data-part=',{key}=%' placeholder='{html.escape(value, quote=True)}' size='6'></label> "
        )
    return _form(inside + "<output></output> ", help=TABLE["sim"].topics["guest"].help)  # type: ignore[index]


def _control(line: str) -> str:
    first, _, topic = line.partition(" ")
    command = (TABLE[first].topics or {})[topic] if topic else TABLE[first]
    value = html.escape(command.usage, quote=True)
    if not command.usage:
        given = f"<input type='hidden' value='x' data-part='{line}'>"
    elif "|" in command.usage and "[" not in command.usage:
        given = f"<select data-part='{line} %' aria-label='{value}'>{_options(command.usage.split('|'))}</select>"
    else:
        given = f"<input data-part='{line} %' placeholder='{value}' aria-label='{line} {value}' size='8'>"
        if command.usage.startswith("["):  # it does without
            given = f"<input type='hidden' value='x' data-part='{line}'>" + given.replace(f"'{line} %'", "' %'")
    return _form(given, line, command.help)


def _terminal(size: int) -> str:
    keys = "".join(f"<button type='button' data-key='{code}'>{name}</button> " for name, code in TYPED.items())
    return f"""\
<div id="hmp-try" data-state="asked">
<div class="try-start"><label>clock <select name="clock">{_options(CLOCKS, "real")}</select></label>
<label>RAM <input name="ram" size="6" value="{RAM}"></label>
<button type="button" class="try-load">Load hmp ({size / 1e6:.1f} MB)</button></div>
<progress class="try-bar" max="1" value="0" hidden></progress>
<p class="try-line" role="status"></p>
<div class="try-screens"></div>
<div class="try-running" hidden>
<div class="try-keys">{keys}<button type="button" class="try-second">Open another terminal</button></div>
<details><summary>Guests and faults: what a click types</summary>{_guest_picker()}
<div class="try-controls">{"".join(map(_control, CONTROLS))}</div></details>
<details><summary>Save and load</summary>
<button type="button" class="try-cast">Download this terminal's session (.cast)</button>
<label>snapshot <select class="try-tags"></select></label>
<button type="button" class="try-snapshot" disabled>Download it ({SUFFIX})</button>
<label>Upload one <input type="file" class="try-upload" accept="{SUFFIX}" data-limit="{BYTES_LIMIT}"></label></details>
</div>
<label><input type="checkbox" class="try-reader"> for a screen reader (Shift-Tab leaves the terminal)</label>
</div>"""


def _made(app: Sphinx) -> Path | None:
    """Put together what the page loads, once; returns the folder, or None without the packages."""
    if not all((PACKAGES / name).is_file() for name in FROM_NPM):
        return None
    place = Path(app.doctreedir) / "try"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for source in [*(PACKAGES / name for name in FROM_NPM), *SOURCES.glob("*.js"), *SOURCES.glob("*.css")]:
        shutil.copyfile(source, place / source.name)
    build = "from hatchling.build import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", build, str(place)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    wheel = ended.stdout.split()[-1]
    files = [{"name": name, "size": (place / name).stat().st_size} for name in [*WITH_PROGRESS, wheel]]
    total = sum(each["size"] for each in files)  # type: ignore[misc]
    (place / "made.json").write_text(json.dumps({"files": files, "total": total, "wheel": wheel}))
    return place


def _digest(place: Path) -> str:
    content = hashlib.sha256()
    for each in sorted(place.iterdir()):
        content.update(each.name.encode() + b"\0" + each.read_bytes())
    return content.hexdigest()[:12]


class HmpTry(SphinxDirective):
    """`hmp-try`: the terminal, or one line that says why there is none."""

    def run(self) -> list[Any]:
        """Return it."""
        self.env.note_reread()
        if self.config["hmp_try_made"] is None:
            return [nodes.warning("", nodes.paragraph(text=MISSING))]
        return [nodes.raw("", f'<div class="hmp-try-here"><p>{UNLOADED}</p></div>', format="html")]


def add_runs(app: Sphinx, doctree: nodes.document) -> None:
    """Put "run here" behind the commands of a page, or why they cannot be run there. A script shows it."""
    blocks = list(doctree.findall(nodes.literal_block))
    files = {found[1]: block.astext() for block in blocks if (found := hmp_run.FILE.match(block.astext()))}
    for block in blocks:
        if block.get("language") not in ("console", "none"):  # the latter is an indented block
            continue
        why: list[str] = []
        buttons: dict[str, str] = {}
        for command in hmp_run.commands(block.astext(), console=block["language"] == "console"):
            run = hmp_run.read(command, files)
            if run.why and "hmp " in command:
                why.append(f"<span>not in a web page: {html.escape(run.why)}</span>")
            elif not run.why:
                data = html.escape(json.dumps({**run._asdict(), "machine": run.machine}), quote=True)
                title = html.escape(command, quote=True)
                buttons.setdefault(
                    f"{run.machine} {run.lines}", f'<button type="button" title="{title}" data-run="{data}">'
                )
        if why or buttons:
            several = len(buttons) > 1
            shown = [
                f"{button}run {f'command {number} ' * several}here</button>"
                for number, button in enumerate(buttons.values(), 1)
            ]
            text = f'<p class="try-run" hidden>{" ".join(dict.fromkeys(shown + why))}</p>'
            block.parent.insert(block.parent.index(block) + 1, nodes.raw("", text, format="html"))


def prepare(app: Sphinx) -> None:
    """Make what the pages load, before they are read."""
    app.config["hmp_try_made"] = _made(app)


def finish(app: Sphinx, error: Exception | None) -> None:
    """Copy what the pages load, tell them, and give each its policy."""
    made: Path | None = app.config["hmp_try_made"]
    out = Path(app.outdir)
    if error is not None or app.builder.name != "html":
        return
    for old in (out / "_static").glob("try-*"):
        shutil.rmtree(old)
    folder = size = ""
    if made is not None:
        digest = _digest(made)
        folder = f"_static/try-{digest}"
        size = json.loads((made / "made.json").read_text())["total"]
        shutil.copytree(made, out / folder, ignore=shutil.ignore_patterns("service.js"))
        (out / "try-service.js").write_text((made / "service.js").read_text().replace("@DIGEST@", digest))
    for page in out.rglob("*.html"):
        text = _ADDED.sub("", page.read_text())  # of an earlier build
        if folder and re.search('class="(hmp-try-here|try-run)"', text):
            up = "../" * (len(page.relative_to(out).parts) - 1)
            styles = "".join(f'<link rel="stylesheet" href="{up}{folder}/{name}.css">' for name in ("xterm", "try"))
            template = f'<template id="hmp-try-box" data-service="{up}try-service.js">{_terminal(size)}</template>'
            script = f'<script type="module" src="{up}{folder}/loader.js"></script>'
            text = text.replace("</body>", f"{_BEGIN}{styles}{template}{script}{_END}</body>", 1)
        inline = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
        scripts = " ".join(f"'sha256-{b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in inline)
        meta = f'<meta http-equiv="Content-Security-Policy" content="{POLICY.format(scripts=scripts)}">'
        page.write_text(text.replace("<head>", f"<head>{_BEGIN}{meta}{_END}", 1))


_BEGIN, _END = "<!--hmp-try-->", "<!--/hmp-try-->"
_ADDED = re.compile(f"{_BEGIN}.*?{_END}", re.DOTALL)


def setup(app: Sphinx) -> dict[str, int]:
    """Register the directive."""
    app.add_config_value("hmp_try_made", None, "")
    app.add_directive("hmp-try", HmpTry)
    app.connect("builder-inited", prepare)
    app.connect("doctree-read", add_runs)
    app.connect("build-finished", finish)
    made_by = zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("hmp_*.py"))))
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": made_by}
