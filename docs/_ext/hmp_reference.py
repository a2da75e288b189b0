"""Sphinx: the directive `hmp-table`, which puts a table of hmp_tables onto a page while the site is built.

Wide tables are made ready for phones.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click
import hmp_tables
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from hmp.options import command
from hmp.recording import cast2svg as pictures

if TYPE_CHECKING:
    from sphinx.application import Sphinx

hmp = command()
cast2svg = pictures.command()
"""What sphinx-click documents."""

for _option in (*hmp.params, *cast2svg.params):
    if isinstance(_option, click.Option) and not _option.is_flag:
        # As --help shows it, but sphinx-click would take a bracket off the end.
        _option.metavar = (_option.metavar or _option.type.name).replace("...]", "]...")


def markdown(table: hmp_tables.Table) -> str:
    """Return a table as Markdown."""
    rows = [table.headings, tuple("---" for _ in table.headings), *table.rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


class HmpTable(SphinxDirective):
    """`hmp-table NAME`: a key of hmp_tables.TABLES."""

    required_arguments = 1

    def run(self) -> list[Any]:
        """Return the table. An unknown name fails the build."""
        self.env.note_reread()  # the tables may have changed where the page has not
        make = hmp_tables.TABLES.get(self.arguments[0])
        if make is None:
            raise self.error(f"no table is called {self.arguments[0]!r} (one of {', '.join(hmp_tables.TABLES)})")
        return self.parse_text_to_nodes(markdown(make()))


NARROW = 4, 60
"""A table with two columns, or with at most so many and so many characters in a row, fits a phone as it is..."""
LONG = 18
"""...if code with a word of more characters may break there: two such words side by side are wider than a phone."""


def stack(app: Sphinx, doctree: nodes.document) -> None:
    """Make tables fit a phone: a wide one's rows become paragraphs, with headings; in others long code may break."""
    for table in doctree.findall(nodes.table):
        head, *rows = table.findall(nodes.row)
        widest = max(len(row.astext()) for row in rows)
        if len(head) < 3 or (len(head) <= NARROW[0] and widest <= NARROW[1]):
            for code in table.findall(nodes.literal):
                if max(map(len, code.astext().split()), default=0) > LONG:
                    code["classes"].append("long")
            continue
        table["classes"].append("stacked")
        for row in rows:
            for name, cell in zip(head[1:], row[1:], strict=True):
                if cell.astext():
                    cell[0].insert(0, nodes.inline("", f"{name.astext()}: ", classes=["heading"]))


def tell_default(app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """Say an option's default in a sentence, where sphinx-click makes a list of it."""
    lines[:] = [re.sub(r":default: ``'?(.*?)'?``$", r"Default: ``\1``.", line) for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("hmp-table", HmpTable)
    app.connect("sphinx-click-process-options", tell_default)
    app.connect("doctree-read", stack)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
