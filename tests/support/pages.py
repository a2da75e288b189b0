"""Rewrites the output shown in README and docs, after an intended change: python -m tests.support.pages.

It runs each command as tests/test_readme.py does and writes its output into the page. Look at the difference before you keep it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.support.shell import shell
from tests.test_readme import BLOCK, FILE, PAGES, PROMPT, commands


def rewritten(text: str) -> str:
    """Return a page with new output of its commands."""
    files = FILE.findall(text)

    def run(block: str) -> str:
        lines = []
        with tempfile.TemporaryDirectory() as folder:
            for content, name in files:
                Path(folder, name).write_text(content)
            for typed, _ in commands(block):
                printed = shell(typed, cwd=Path(folder), merged=True).out
                first, *rest = typed.split("\n")
                lines += [f"{PROMPT}{first}", *(f"> {line}" for line in rest), *printed.splitlines()]
        return "```console\n" + "".join(f"{line}\n" for line in lines) + "```"

    return BLOCK.sub(lambda match: run(match[1]), text)


def main() -> None:
    """Rewrite the pages named on the command line, or all."""
    for page in map(Path, sys.argv[1:]) if sys.argv[1:] else PAGES:
        text = page.read_text()
        anew = rewritten(text)
        if anew != text:
            page.write_text(anew)
            print(page)


if __name__ == "__main__":
    main()
