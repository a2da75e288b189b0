"""State as declared records: saved, loaded with distrust and reset by what each part says of itself once.

A part is an object whose class lists the members of its state in `STATE`, and in `DERIVED` the attributes that are
worked out from them or belong to its surroundings. `save`, `load`, `reset` and `undeclared` do the rest. What a
snapshot says is checked before anything is made of it.
"""

from __future__ import annotations

from device.errors import MisuseError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Plain = dict[str, object]
    Limit = int | Callable[[Any], int]

_U64 = 0xFFFF_FFFF_FFFF_FFFF
FAR = 1 << 80
"""Ns of age or of VM time that a snapshot may hold, and of a date either way from 1970: more than any clock shows."""

_MESSAGE_LIMIT = 300
"""Characters of a message: what it quotes may come from a file that nobody checked yet."""


class SnapshotError(MisuseError):
    """A snapshot cannot be made or loaded; the message, one printable line, names why, and nothing has changed."""

    def __init__(self, message: str) -> None:
        shown = message if len(message) <= _MESSAGE_LIMIT else f"{message[:_MESSAGE_LIMIT]}..."
        super().__init__(shown if shown.isprintable() else ascii(shown)[1:-1])


class Fields:
    """The members of one object of a snapshot. Each is taken once, by type and range; `done` refuses the rest.

    `version` is the snapshot's format; `then` is when it was saved, in host ns of the machine that loads it. Every
    method raises SnapshotError naming the member, such as `device.queues[1].size`.
    """

    __slots__ = ("_left", "_where", "then", "version")

    def __init__(self, data: object, where: str, *, version: int = 1 << 30, then: int = 0) -> None:
        if type(data) is not dict or not all(type(name) is str for name in data):
            raise SnapshotError(f"{where} is not an object")
        self._left: dict[str, object] = dict(data)
        self._where = where
        self.version = version
        self.then = then

    def _inner(self, data: object, where: str) -> Fields:
        return Fields(data, f"{self._where}.{where}", version=self.version, then=self.then)

    def __contains__(self, name: str) -> bool:
        """Whether there is a member `name` that was not taken."""
        return name in self._left

    def refuse(self, name: str, why: str) -> SnapshotError:
        """Return the error that says what is wrong with member `name`."""
        return SnapshotError(f"{self._where}.{name} {why}")

    def _take(self, name: str) -> object:
        if name not in self._left:
            raise self.refuse(name, "is missing")
        return self._left.pop(name)

    def integer(self, name: str, low: int = 0, high: int = _U64) -> int:
        """Take an integer from `low` to `high`."""
        value = self._take(name)
        if type(value) is not int or not low <= value <= high:
            raise self.refuse(name, f"is not an integer from {low} to {high}")
        return value

    def flag(self, name: str) -> bool:
        """Take a truth value."""
        value = self._take(name)
        if type(value) is not bool:
            raise self.refuse(name, "is not true or false")
        return value

    def text(self, name: str) -> str:
        """Take a string of printable characters."""
        value = self._take(name)
        if type(value) is not str or not value.isprintable():
            raise self.refuse(name, "is not a printable text")
        return value

    def section(self, name: str) -> Fields:
        """Take an object."""
        return self._inner(self._take(name), name)

    def perhaps(self, name: str, low: int = 0, high: int = _U64) -> int | None:
        """Take an integer from `low` to `high`, or nothing where it is null."""
        if self._left.get(name, 0) is None:
            self._take(name)
            return None
        return self.integer(name, low, high)

    def maybe(self, name: str) -> Fields | None:
        """Take an object, or nothing where it is null."""
        value = self._take(name)
        return None if value is None else self._inner(value, name)

    def sections(self, name: str, limit: int) -> list[Fields]:
        """Take a list of at most `limit` objects."""
        value = self._take(name)
        if type(value) is not list or len(value) > limit:
            raise self.refuse(name, f"is not a list of at most {limit}")
        return [self._inner(item, f"{name}[{position}]") for position, item in enumerate(value)]

    def integers(self, name: str, limit: int, high: int = _U64) -> list[int]:
        """Take a list of at most `limit` integers from 0 to `high`."""
        value = self._take(name)
        if type(value) is not list or len(value) > limit:
            raise self.refuse(name, f"is not a list of at most {limit}")
        for item in value:
            if type(item) is not int or not 0 <= item <= high:
                raise self.refuse(name, f"holds something else than integers from 0 to {high}")
        return list(value)

    def counters(self, name: str, limit: int, high: int = _U64) -> dict[str, int]:
        """Take an object of at most `limit` integers from 0 to `high`."""
        members = self.section(name)
        if len(members._left) > limit:
            raise self.refuse(name, f"has more than {limit} members")
        return members.rest(high)

    def rest(self, high: int = _U64) -> dict[str, int]:
        """Take every member that is left; each must be an integer from 0 to `high`."""
        return {key: self.integer(key, 0, high) for key in tuple(self._left)}

    def pairs(self, name: str, limit: int) -> list[tuple[int, int | None]]:
        """Take a list of at most `limit` pairs of an integer and an integer or null."""
        value = self._take(name)
        if type(value) is not list or len(value) > limit:
            raise self.refuse(name, f"is not a list of at most {limit}")
        found: list[tuple[int, int | None]] = []
        for item in value:
            if type(item) is not list or len(item) != 2:
                raise self.refuse(name, "holds something else than pairs")
            key, number = item
            for part in item:
                if part is not None and (type(part) is not int or not 0 <= part <= _U64):
                    raise self.refuse(name, "holds a number out of range")
            if key is None:
                raise self.refuse(name, "holds a pair without its first")
            found.append((key, number))
        return found

    def done(self) -> None:
        """Refuse what is left over: a field that we do not know would be lost."""
        for name in self._left:
            raise self.refuse(f"{ascii(name)[1:-1]:.40}", "is unknown")


class Member:
    """One declared member of a part's state, kept in the attribute of the same name unless `attribute` is given.

    `default` is its value in a new part, or a function that makes it; `kept` that a reset leaves it alone; `since` the
    first format that has it: loading an older one gives the default, as does one that lacks a `late` member.
    `check(part, value)` returns what is wrong with a value that was read, or "".
    """

    __slots__ = ("attribute", "check", "default", "kept", "late", "name", "since")

    def __init__(
        self,
        name: str,
        default: object = None,
        *,
        attribute: str = "",
        kept: bool = False,
        since: int = 1,
        late: bool = False,
        check: Callable[[Any, Any], str] | None = None,
    ) -> None:
        self.name = name
        self.attribute = attribute or name
        self.default = default
        self.kept = kept
        self.since = since
        self.late = late
        self.check = check

    def reset(self, part: object) -> None:
        """Give the part the default."""
        setattr(part, self.attribute, self.default() if callable(self.default) else self.default)

    def save(self, part: Any, now: int) -> object:
        """Return the value as plain data; ages count from `now` (host ns)."""
        return getattr(part, self.attribute)

    def load(self, part: Any, fields: Fields) -> None:
        """Take the value out of `fields`. Raises SnapshotError."""
        value = self.take(part, fields)
        wrong = self.check(part, value) if self.check is not None else ""
        if wrong:
            raise fields.refuse(self.name, wrong)
        setattr(part, self.attribute, value)

    def take(self, part: Any, fields: Fields) -> object:
        """Return the value, checked by type and range. Raises SnapshotError."""
        raise NotImplementedError


class Integer(Member):
    """An integer from `low` to `high`; either may be a function of the part."""

    __slots__ = ("high", "low")

    def __init__(self, name: str, high: Limit = _U64, default: int = 0, *, low: Limit = 0, **more: Any) -> None:
        super().__init__(name, default, **more)
        self.low = low
        self.high = high

    def take(self, part: Any, fields: Fields) -> object:
        """As Member.take."""
        low, high = (limit if isinstance(limit, int) else limit(part) for limit in (self.low, self.high))
        return fields.integer(self.name, low, high)


class Flag(Member):
    """A truth value, false by default."""

    def __init__(self, name: str, default: bool = False, **more: Any) -> None:
        super().__init__(name, default, **more)

    def take(self, part: Any, fields: Fields) -> object:
        """As Member.take."""
        return fields.flag(self.name)


class Text(Member):
    """A printable string."""

    def __init__(self, name: str, default: str = "", **more: Any) -> None:
        super().__init__(name, default, **more)

    def take(self, part: Any, fields: Fields) -> object:
        """As Member.take."""
        return fields.text(self.name)


class Age(Member):
    """A time of the host's clock, saved as how long ago it was."""

    def save(self, part: Any, now: int) -> object:
        """As Member.save."""
        return min(FAR, now - getattr(part, self.attribute))

    def take(self, part: Any, fields: Fields) -> object:
        """As Member.take."""
        return fields.then - fields.integer(self.name, 0, FAR)


class Part(Member):
    """A part of the part, with a STATE of its own, which is loaded in place. Resetting it is its owner's affair."""

    def reset(self, part: object) -> None:
        """As Member.reset."""

    def save(self, part: Any, now: int) -> object:
        """As Member.save."""
        return save(getattr(part, self.attribute), now)

    def load(self, part: Any, fields: Fields) -> None:
        """As Member.load."""
        load(getattr(part, self.attribute), fields.section(self.name))


class Parts(Part):
    """A list of parts, as many as there are. `wrong` says that there are others, with {} for how many there must be."""

    __slots__ = ("wrong",)

    def __init__(self, name: str, wrong: str = "are not {}", **more: Any) -> None:
        super().__init__(name, **more)
        self.wrong = wrong

    def save(self, part: Any, now: int) -> object:
        """As Member.save."""
        return [save(item, now) for item in getattr(part, self.attribute)]

    def load(self, part: Any, fields: Fields) -> None:
        """As Member.load."""
        items = getattr(part, self.attribute)
        sections = fields.sections(self.name, len(items))
        if len(sections) != len(items):
            raise fields.refuse(self.name, self.wrong.format(len(items)))
        for item, section in zip(items, sections, strict=True):
            load(item, section)


class Other(Member):
    """What no other kind fits: `saves(part, now)` makes plain data of it, `loads(part, fields)` puts it back."""

    __slots__ = ("_loads", "_saves")

    def __init__(
        self,
        name: str,
        saves: Callable[[Any, int], object],
        loads: Callable[[Any, Fields], None],
        default: object = None,
        **more: Any,
    ) -> None:
        super().__init__(name, default, **more)
        self._saves = saves
        self._loads = loads

    def save(self, part: Any, now: int) -> object:
        """As Member.save."""
        return self._saves(part, now)

    def load(self, part: Any, fields: Fields) -> None:
        """As Member.load."""
        self._loads(part, fields)


def reset(part: Any, *, new: bool = False) -> None:
    """Give each member of the part's state its default; those that a reset keeps only where the part is `new`."""
    for member in part.STATE:
        if new or not member.kept:
            member.reset(part)


def save(part: Any, now: int, *besides: Any) -> Plain:
    """Return the state of the part, and of those `besides`, as plain data; ages count from `now` (host ns)."""
    return {member.name: member.save(each, now) for each in (*besides, part) for member in each.STATE}


def load(part: Any, fields: Fields, *besides: Any) -> None:
    """Take the whole state out of `fields`, in the order of STATE, as `save` made it. Raises SnapshotError."""
    for each in (*besides, part):
        for member in each.STATE:
            if fields.version >= member.since and (member.name in fields or not member.late):
                member.load(each, fields)
            else:
                member.reset(each)
    fields.done()


def attributes(part: object) -> Iterator[str]:
    """Yield the names of what the part holds: its slots, and what else was set on it."""
    for cls in type(part).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots
    yield from getattr(part, "__dict__", ())


def undeclared(part: Any) -> list[str]:
    """Return the attributes that are neither in the part's STATE nor in its DERIVED: empty where all is well."""
    known = {member.attribute for member in part.STATE}.union(part.DERIVED)
    return sorted(set(attributes(part)) - known)
