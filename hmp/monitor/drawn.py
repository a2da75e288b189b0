"""Text that remembers what it is made of, for a terminal that draws it in its own way."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Cell = str | tuple[str, str]
    """A text, or what it means ("good", "notice", "bad", "dim", "plot") and the text."""


class Drawn(str):
    """What a command prints. `rows` are the cells of a table of it, `right` its columns that are flush right.

    `heading` stands above them. Pipes and sockets get the text itself and never look at the rest.
    """

    rows: Sequence[Sequence[Cell]]
    heading: Cell
    names: Sequence[str]
    right: tuple[int, ...]

    @classmethod
    def of(
        cls,
        text: str,
        rows: Sequence[Sequence[Cell]],
        *,
        heading: Cell = "",
        names: Sequence[str] = (),
        right: tuple[int, ...] = (),
    ) -> Drawn:
        """Return `text` with its rows; `names` are what their columns are called."""
        made = cls(text)
        made.rows, made.heading, made.names, made.right = rows, heading, names, right
        return made
