"""The parts of a User-Mode Linux guest: finds them, checks that they fit, and packs the archive it boots from."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Mapping
from stat import S_IFCHR, S_IFDIR, S_IFLNK, S_IFREG
from typing import NamedTuple

from device.errors import MisuseError
from device.guest.uml.console import INIT, MODULE
from device.guest.uml.initramfs import Archive

# Debian's name for the kernel, and the one that the kernel's own build gives it.
KERNEL_NAMES = ("linux.uml", "linux")
MODULES = "/usr/lib/uml/modules/*/kernel/drivers/virtio/virtio_balloon.ko"

VERSION_AT = -5
"""The position of the kernel's version in such a path, split at slashes."""

_INTERPRETER = 3
"""The ELF program header that names a dynamic loader."""


class Parts(NamedTuple):
    """The paths of a guest's parts."""

    kernel: str
    module: str
    busybox: str


def find_parts(settings: Mapping[str, object]) -> Parts:
    """Find kernel, module and busybox; a path in `settings` replaces the search for that part.

    Raises MisuseError that says which part is missing or unfit, and which Debian package has it.
    """
    kernel = _program(settings, "kernel", KERNEL_NAMES, "User-Mode Linux kernel", "user-mode-linux")
    busybox = _program(settings, "busybox", ("busybox",), "busybox", "busybox-static")
    try:
        if not _is_static(busybox):
            raise MisuseError(f"guest uml: {busybox} is not a static program: apt-get install busybox-static")
        module = _module(settings, kernel)
        # Read it now: a module that cannot be read was once reported only when the machine was up.
        with open(module, "rb") as file:
            file.read(1)
    except OSError as error:
        raise MisuseError(f"guest uml: cannot read {error.filename or busybox}: {error.strerror}") from None
    return Parts(kernel, module, busybox)


def _program(settings: Mapping[str, object], key: str, names: tuple[str, ...], what: str, package: str) -> str:
    named = settings.get(key)
    if named is not None:
        path = str(named)
        if not os.path.isfile(path):
            raise MisuseError(f"guest uml: {key}={path}: no such file")
        if not os.access(path, os.X_OK):
            raise MisuseError(f"guest uml: {key}={path}: is not executable")
        return os.path.abspath(path)
    for name in names:
        # A service may run with an odd PATH, so Debian's places are searched after it.
        found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/bin:/bin")
        if found is not None:
            return os.path.abspath(found)
    raise MisuseError(f"guest uml: no {what} ({names[0]}) found: apt-get install {package}, or say {key}=PATH")


def _module(settings: Mapping[str, object], kernel: str) -> str:
    named = settings.get("module")
    if named is not None:
        if not os.path.isfile(str(named)):
            raise MisuseError(f"guest uml: module={named}: no such file")
        return str(named)
    found = sorted(glob.glob(MODULES))
    if not found:
        raise MisuseError(
            "guest uml: no virtio_balloon.ko for User-Mode Linux found: apt-get install user-mode-linux, "
            "or say module=PATH"
        )
    if len(found) > 1:  # an upgrade can leave older modules: take the one of the version in the kernel's banner
        with open(kernel, "rb") as program:
            content = program.read()
        found = [path for path in found if f"Linux version {path.split('/')[VERSION_AT]} ".encode() in content] or found
    return found[-1]


def _is_static(path: str) -> bool:
    """Whether a program needs no dynamic loader. A file that is not 64-bit ELF counts as static."""
    # The archive has no C library: a dynamic busybox could not run as init, and the kernel would panic.
    with open(path, "rb") as program:
        head = program.read(64)
        # A script or a 32-bit program: whether it runs in the guest is not known here, so it is not refused.
        if head[:5] != b"\x7fELF\x02" or len(head) < 64:
            return True
        start = int.from_bytes(head[32:40], "little")
        size, count = int.from_bytes(head[54:56], "little"), int.from_bytes(head[56:58], "little")
        program.seek(start)
        table = program.read(size * count)
    kinds = [int.from_bytes(table[at : at + 4], "little") for at in range(0, len(table), size or 1)]
    return _INTERPRETER not in kinds


def build_initramfs(parts: Parts) -> bytes:
    """Return the archive that the guest boots from. Raises MisuseError if a part cannot be read."""
    # Linux opens /dev/console for init before init can mount anything, so the archive needs device nodes.
    archive = Archive()
    for name in ("bin", "dev", "proc", "sys", "work"):
        archive.add(name, S_IFDIR | 0o755)
    for name, mode, major, minor in (("console", 0o600, 5, 1), ("null", 0o666, 1, 3), ("zero", 0o666, 1, 5)):
        archive.add(f"dev/{name}", S_IFCHR | mode, b"", major, minor)
    archive.add("bin/sh", S_IFLNK | 0o777, b"busybox")
    try:
        for name, path in (("bin/busybox", parts.busybox), (MODULE.lstrip("/"), parts.module)):
            with open(path, "rb") as source:
                archive.add(name, S_IFREG | 0o755, source.read())
    except OSError as error:
        raise MisuseError(f"guest uml: cannot read {error.filename}: {error.strerror}") from None
    archive.add("init", S_IFREG | 0o755, INIT.encode())
    return bytes(archive)
