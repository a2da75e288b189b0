"""A cpio archive in the "newc" format, which Linux unpacks as its first root file system.

The kernel's Documentation/driver-api/early-userspace/buffer-format.rst describes the format. Each file has a magic
word, thirteen 8-digit hexadecimal numbers, its name with a zero byte, and its content. Name and content are each padded
to four bytes. A file called TRAILER!!! ends the archive.
"""

from __future__ import annotations

import stat

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_BLOCK = 512
"""The whole archive is padded to a multiple of this, as cpio programs do."""

# The cpio program was rejected: it packs device nodes only from a directory, and only root can make them there.


class Archive:
    """Collects files; `bytes()` of it is the archive. Add a directory before the files in it.

    Everything belongs to root and dates from 1970, so the same files make the same bytes.
    """

    def __init__(self) -> None:
        self._data = b""
        self._inode = 0

    def add(self, name: str, mode: int, content: bytes = b"", major: int = 0, minor: int = 0) -> None:
        """Add a file of at most 4 GiB; `mode` has its kind and permissions, as in stat(2).

        `name` is relative, without a slash at either end. The `content` of a symbolic link is its target.
        """
        # Each file has its own inode number: the kernel takes equal numbers with several links for one file.
        self._inode += 1
        self._entry(name, self._inode, mode, content, major, minor)

    def _entry(self, name: str, inode: int, mode: int, content: bytes = b"", major: int = 0, minor: int = 0) -> None:
        path = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        numbers = (inode, mode, 0, 0, links, 0, len(content), 0, 0, major, minor, len(path), 0)
        self._append(_MAGIC + b"".join(b"%08x" % number for number in numbers) + path)
        self._append(content)

    def _append(self, data: bytes) -> None:
        self._data += data + bytes(-len(data) % 4)  # header and name are padded together, as the format wants

    def __bytes__(self) -> bytes:
        """Return the archive with its trailer."""
        end = Archive()
        end._data = self._data
        end._entry(_TRAILER, 0, 0)
        return end._data + bytes(-len(end._data) % _BLOCK)
