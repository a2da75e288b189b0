"""Text that keeps the cells it was made from, so that a terminal can lay it out in its own way."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

Cell = str | tuple[str, str]
"""A text, or a pair of its meaning ("good", "notice", "bad", "dim", "name", "plot") and the text."""


class Drawn(str):
    """What a command prints. `rows` has the cells of the table, `right` the indices of the columns that align right.

    `heading` is the text above the table. Pipes and sockets use the text itself and ignore the rest.
    """

    # A subclass of str, so that handlers, pipes and sockets need not know about it. Commands say what a cell means and
    # not its colour: only the terminal package, which imports rich, decides how things look.
    rows: Sequence[Sequence[Cell]]
    heading: Cell
    names: Sequence[str]
    right: tuple[int, ...]

    @classmethod
    def of(
        cls, text: str, rows: Sequence[Sequence[Cell]], *,
        heading: Cell = "", names: Sequence[str] = (), right: tuple[int, ...] = (),
    ) -> Drawn:  # fmt: skip
        """Return `text` with its rows; `names` are the headings of the columns."""
        made = cls(text)
        made.rows, made.heading, made.names, made.right = rows, heading, names, right
        return made
