"""Declared state: each part lists its state once, and saving, checked loading and resetting are made from that list.

A part is an object whose class lists the members of its state in `STATE`. `DERIVED` lists the other attributes: those
that are worked out from the state, and those that belong to other objects. A test finds attributes that are in neither.
`save`, `load` and `reset` do the rest. What a snapshot says is checked before it is used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from device.fields import Fields

    Plain = dict[str, object]
    Limit = int | Callable[[Any], int]

_U64 = 0xFFFF_FFFF_FFFF_FFFF
FAR = 1 << 80
"""The limit in ns of ages, VM times, and dates before or after 1970 in a snapshot: more than any clock shows."""


class Member:
    """One declared member of a part's state, in the attribute of the same name unless `attribute` is given.

    `default` is its value in a new part, or a function that makes it. A reset leaves a `kept` member alone. `since` is
    the first format that has it. Loading an older format gives the default; so does a snapshot without a `late` member.

    `takes(part, fields)` returns the value, checked by type and range, and `check(part, value)` what is wrong with it,
    or "". A member that has no `takes` has `loads(part, fields)`, which puts the value in its place, or else its owner
    does that. Both may raise SnapshotError. `saves(part, now)` returns the value as plain data, if it is not plain
    itself.
    """

    # The usual kinds of members are functions below, with names like classes. Classes were rejected: each would have to
    # be made at every start.

    __slots__ = ("attribute", "check", "default", "kept", "late", "loads", "name", "saves", "since", "takes")

    def __init__(
        self,
        name: str,
        saves: Callable[[Any, int], object] | None = None,
        loads: Callable[[Any, Fields], None] | None = None,
        default: object = None,
        *,
        attribute: str = "",
        kept: bool = False,
        since: int = 1,
        late: bool = False,
        check: Callable[[Any, Any], str] | None = None,
        takes: Callable[[Any, Fields], object] | None = None,
    ) -> None:
        self.name = name
        self.attribute = attribute or name
        self.default, self.kept, self.since, self.late, self.check = default, kept, since, late, check
        self.takes, self.loads, self.saves = takes, loads, saves

    def reset(self, part: object) -> None:
        """Give the member its default value."""
        # A mutable default such as a dict has to be a function, so that parts do not share it.
        if self.default is not _OWNERS:
            setattr(part, self.attribute, self.default() if callable(self.default) else self.default)

    def save(self, part: Any, now: int) -> object:
        """Return the value as plain data; ages are counted back from `now` (host ns)."""
        return getattr(part, self.attribute) if self.saves is None else self.saves(part, now)

    def load(self, part: Any, fields: Fields) -> None:
        """Take the value out of `fields`. Raises SnapshotError."""
        if self.takes is None:
            if self.loads is not None:
                self.loads(part, fields)
            return
        value = self.takes(part, fields)
        wrong = self.check(part, value) if self.check is not None else ""
        if wrong:
            raise fields.refuse(self.name, wrong)
        setattr(part, self.attribute, value)


_OWNERS = object()
"""The default of a list of parts: `reset` leaves it alone, and the owner resets each part."""


def Integer(name: str, high: Limit = _U64, default: int = 0, *, low: Limit = 0, **more: Any) -> Member:
    """Declare an integer from `low` to `high`; either may be a function of the part."""

    def takes(part: Any, fields: Fields) -> object:
        lowest, highest = (limit if isinstance(limit, int) else limit(part) for limit in (low, high))
        return fields.integer(name, lowest, highest)

    return Member(name, default=default, takes=takes, **more)


def Flag(name: str, default: bool = False, **more: Any) -> Member:
    """Declare a truth value, false by default."""
    return Member(name, default=default, takes=lambda part, fields: fields.flag(name), **more)


def Text(name: str, default: str = "", **more: Any) -> Member:
    """Declare a printable string."""
    return Member(name, default=default, takes=lambda part, fields: fields.text(name), **more)


def Age(name: str, *, attribute: str, **more: Any) -> Member:
    """Declare a time of the host's clock. It is saved as an age: how many ns ago it was."""
    return Member(
        name,
        attribute=attribute,
        takes=lambda part, fields: fields.then - fields.integer(name, 0, FAR),
        saves=lambda part, now: min(FAR, now - getattr(part, attribute)),
        **more,
    )


def Parts(name: str, wrong: str = "are not {}", *, attribute: str = "", **more: Any) -> Member:
    """Declare a list of parts, whose length does not change. `wrong` is the error for another length; {} is the right
    length.
    """

    def loads(part: Any, fields: Fields) -> None:
        items = getattr(part, attribute or name)
        sections = fields.sections(name, len(items))
        if len(sections) != len(items):
            raise fields.refuse(name, wrong.format(len(items)))
        for item, section in zip(items, sections, strict=True):
            load(item, section)

    def saves(part: Any, now: int) -> object:
        return [save(item, now) for item in getattr(part, attribute or name)]

    return Member(name, saves, loads, _OWNERS, attribute=attribute, **more)


def slots(state: tuple[Member, ...], derived: tuple[str, ...]) -> tuple[str, ...]:
    """Return the __slots__ of a class that declares these."""
    return (*derived, *[member.attribute for member in state])


def reset(part: Any, *, new: bool = False) -> None:
    """Give each member of the part's state its default; `kept` members only if the part is `new`."""
    for member in part.STATE:
        if new or not member.kept:
            member.reset(part)


def save(part: Any, now: int, *besides: Any) -> Plain:
    """Return the state of the part and of those `besides` as plain data; ages are counted back from `now` (host ns)."""
    return {member.name: member.save(each, now) for each in (*besides, part) for member in each.STATE}


def load(part: Any, fields: Fields, *besides: Any) -> None:
    """Take the whole state out of `fields`, in the order of STATE. Raises SnapshotError."""
    # The order matters: the check of a member may use the members before it.
    for each in (*besides, part):
        for member in each.STATE:
            if fields.version >= member.since and (member.name in fields or not member.late):
                member.load(each, fields)
            else:
                member.reset(each)
    fields.done()
