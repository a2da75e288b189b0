"""Snapshots taken apart and put together again, for tests of the loader."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from typing import Any

from device.fields import Fields
from device.guest.model.kernel import Kernel
from device.guest.table import make_guest
from device.machine.machine import Machine
from device.machine.snapshot import MAGIC, VERSION, load, save
from device.state import save as save_part

_FRONT = 16


def saved(machine: Machine, tag: str = "t") -> bytes:
    """Return the machine's snapshot."""
    out = io.BytesIO()
    save(machine, out, tag=tag)
    return out.getvalue()


def restore(machine: Machine, data: bytes) -> None:
    """Load a snapshot from bytes."""
    load(machine, io.BytesIO(data), make_guest)


def state_of(kernel: Kernel) -> dict[str, Any]:
    """Return the state of a kernel."""
    return save_part(kernel, 0)


def restore_kernel(state: dict[str, Any]) -> Kernel:
    """Return the kernel that was saved as `state`."""
    return Kernel.restored(Fields(state, "kernel"))


def state_in(data: bytes) -> dict[str, Any]:
    """Return the state in a snapshot."""
    length = int.from_bytes(data[12:16], "little")
    state: dict[str, Any] = json.loads(data[_FRONT : _FRONT + length])
    return state


def behind_state(data: bytes) -> bytes:
    """Return what follows the state: the balloon's pages and the memory, without the checksum."""
    return data[_FRONT + int.from_bytes(data[12:16], "little") : -32]


def with_state(data: bytes, state: object, *, version: int = VERSION, rest: bytes | None = None) -> bytes:
    """Return the snapshot with another state (an object, or raw bytes) and a checksum that fits."""
    packed = state if isinstance(state, bytes) else json.dumps(state, separators=(",", ":")).encode()
    body = MAGIC + version.to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed
    return signed(body + (behind_state(data) if rest is None else rest))


def signed(body: bytes) -> bytes:
    """Return `body` with its checksum."""
    return body + hashlib.sha256(body).digest()


def settled(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return all that a snapshot says of the machine, without date and run of its making and its tag."""
    state = state_in(data)
    del state["date"], state["run"], state["tag"]
    return state, behind_state(data)


def members(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], object]]:
    """Yield (path, value) of everything in a JSON tree, containers before what they hold."""
    if path:
        yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from members(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from members(item, (*path, index))


def replaced(tree: Any, path: tuple[str | int, ...], value: object) -> Any:
    """Return a copy of a JSON tree with what is at `path` replaced; the rest is shared."""
    if not path:
        return value
    step, *rest = path
    if isinstance(tree, dict):
        return {**tree, step: replaced(tree[step], tuple(rest), value)}
    copy = list(tree)
    copy[step] = replaced(copy[step], tuple(rest), value)  # type: ignore[index]
    return copy
