"""Sphinx: the page "Try it here". It is made from npm's packages in .npm (`make docs`) and the wheel of these sources.

Without the packages the page says why it has no terminal. Nothing on it comes from another origin.
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
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from device.guest.table import PROFILES
from hmp.config import CLOCKS
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
KEYS = {"Tab": "\\t", "↑": "\\u001b[A", "Ctrl-C": "\\u0003"}
"""What a phone's keyboard lacks, as JSON spells it."""

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval' {scripts}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'self'"
)
"""xterm.js writes its colours into style elements; of scripts only the site's files and the theme's own lines run."""


def _options(name: str, values: dict[str, str], chosen: str) -> str:
    made = (
        f"<option value='{value}'{' selected' * (value == chosen)}>{html.escape(value)}</option>" for value in values
    )
    return f"<label>{name} <select name='{name}'>{''.join(made)}</select></label>"


def _terminal(folder: str, size: int) -> str:
    guests = {name: each.help for name, each in PROFILES.items() if not each.host}
    clocks = {name: help for name, (_, help) in CLOCKS.items()}
    keys = "".join(f"<button type='button' data-key='{code}'>{name}</button> " for name, code in KEYS.items())
    return f"""\
<link rel="stylesheet" href="{folder}/xterm.css"><link rel="stylesheet" href="{folder}/try.css">
<div id="hmp-try" data-service="try-service.js" data-state="asked">
<div class="try-start">{_options("guest", guests, "linux")} {_options("clock", clocks, "real")}
<label>RAM <input name="ram" size="5" value="{RAM}"></label>
<button type="button" class="try-load" disabled>Load hmp ({size / 1e6:.1f} MB)</button></div>
<progress class="try-bar" max="1" value="0" hidden></progress>
<p class="try-line" role="status"></p>
<div class="try-screens"></div>
<div class="try-keys" hidden>{keys}<button type="button" class="try-second">Open another terminal</button></div>
<label><input type="checkbox" class="try-reader"> for a screen reader</label>
<noscript>The terminal needs JavaScript.</noscript>
</div>
<script type="module" src="{folder}/terminal.js"></script>
"""


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
        made: Path | None = self.config["hmp_try_made"]
        if made is None:
            return [nodes.warning("", nodes.paragraph(text=MISSING))]
        size = json.loads((made / "made.json").read_text())["total"]
        return [nodes.raw("", _terminal(f"_static/try-{_digest(made)}", size), format="html")]


def prepare(app: Sphinx) -> None:
    """Make what the page loads, before it is read."""
    app.config["hmp_try_made"] = _made(app)


def finish(app: Sphinx, error: Exception | None) -> None:
    """Copy what the page loads, and give the page its policy."""
    made: Path | None = app.config["hmp_try_made"]
    out = Path(app.outdir)
    if error is not None or made is None or app.builder.name != "html":
        return
    for old in (out / "_static").glob("try-*"):
        shutil.rmtree(old)
    digest = _digest(made)
    shutil.copytree(made, out / f"_static/try-{digest}", ignore=shutil.ignore_patterns("service.js"))
    (out / "try-service.js").write_text((made / "service.js").read_text().replace("@DIGEST@", digest))
    page = out / "try.html"
    text = page.read_text()
    inline = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    scripts = " ".join(f"'sha256-{b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in inline)
    meta = f'<meta http-equiv="Content-Security-Policy" content="{POLICY.format(scripts=scripts)}">'
    if meta not in text:
        page.write_text(text.replace("<head>", f"<head>{meta}", 1))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_config_value("hmp_try_made", None, "")
    app.add_directive("hmp-try", HmpTry)
    app.connect("builder-inited", prepare)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
