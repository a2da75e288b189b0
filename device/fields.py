"""Plain data from a snapshot, which is not trusted: every member is checked by type and range when it is taken."""

from __future__ import annotations

from device.errors import MisuseError

_U64 = 0xFFFF_FFFF_FFFF_FFFF
_MESSAGE_LIMIT = 300
"""Characters of a message, as it may quote a file that was not checked yet."""


class SnapshotError(MisuseError):
    """A snapshot cannot be made or loaded, and nothing has changed. The message is one printable line."""

    def __init__(self, message: str) -> None:
        # The message goes to a terminal: a file must not send escape sequences there.
        shown = message if len(message) <= _MESSAGE_LIMIT else f"{message[:_MESSAGE_LIMIT]}..."
        super().__init__(shown if shown.isprintable() else ascii(shown)[1:-1])


class Fields:
    """The members of one object of a snapshot. Each is taken once, checked by type and range; `done` refuses the rest.

    `version` is the snapshot's format. `then` is the time of saving on the host clock of the machine that loads it, in
    ns. Every method raises SnapshotError with the name of the member, such as `device.queues[1].size`.
    """

    # Types are compared with `type() is` and not isinstance(): in Python True is an int, and in JSON it is not.

    def __init__(self, data: object, where: str, *, version: int = 1 << 30, then: int = 0) -> None:
        if type(data) is not dict or not all(type(name) is str for name in data):
            raise SnapshotError(f"{where} is not an object")
        self._left: dict[str, object] = dict(data)
        self._where, self.version, self.then = where, version, then

    def _inner(self, data: object, where: str) -> Fields:
        return Fields(data, f"{self._where}.{where}", version=self.version, then=self.then)

    def __contains__(self, name: str) -> bool:
        """Whether there is a member `name` that was not taken yet."""
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
            raise self.refuse(name, "is not printable text")
        return value

    def section(self, name: str) -> Fields:
        """Take an object."""
        return self._inner(self._take(name), name)

    def perhaps(self, name: str, low: int = 0, high: int = _U64) -> int | None:
        """Take an integer from `low` to `high`; null is None."""
        # A missing member is left to `integer`, whose error says that it is missing.
        if self._left.get(name, 0) is None:
            self._take(name)
            return None
        return self.integer(name, low, high)

    def maybe(self, name: str) -> Fields | None:
        """Take an object; null is None."""
        value = self._take(name)
        return None if value is None else self._inner(value, name)

    def _list(self, name: str, limit: int) -> list[object]:
        value = self._take(name)
        if type(value) is not list or len(value) > limit:
            raise self.refuse(name, f"is not a list of at most {limit}")
        return value

    def sections(self, name: str, limit: int) -> list[Fields]:
        """Take a list of at most `limit` objects."""
        return [self._inner(item, f"{name}[{position}]") for position, item in enumerate(self._list(name, limit))]

    def integers(self, name: str, limit: int, high: int = _U64) -> list[int]:
        """Take a list of at most `limit` integers from 0 to `high`."""
        found: list[int] = []
        for item in self._list(name, limit):
            if type(item) is not int or not 0 <= item <= high:
                raise self.refuse(name, f"holds something other than integers from 0 to {high}")
            found.append(item)
        return found

    def counters(self, name: str, limit: int, high: int = _U64) -> dict[str, int]:
        """Take an object of at most `limit` integers from 0 to `high`."""
        members = self.section(name)
        if len(members._left) > limit:
            raise self.refuse(name, f"has more than {limit} members")
        return {key: members.integer(key, 0, high) for key in tuple(members._left)}

    def pairs(self, name: str, limit: int) -> list[tuple[int, int | None]]:
        """Take a list of at most `limit` pairs of an integer and an integer or null."""
        found: list[tuple[int, int | None]] = []
        for item in self._list(name, limit):
            if type(item) is not list or len(item) != 2:
                raise self.refuse(name, "holds something other than pairs")
            key, number = item
            for part in item:
                if part is not None and (type(part) is not int or not 0 <= part <= _U64):
                    raise self.refuse(name, "holds a number out of range")
            if key is None:
                raise self.refuse(name, "holds a pair without its first part")
            found.append((key, number))
        return found

    def done(self) -> None:
        """Refuse the members that were not taken: they are unknown, and the next save would lose them."""
        for name in self._left:
            raise self.refuse(f"{ascii(name)[1:-1]:.40}", "is unknown")
