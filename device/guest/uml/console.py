"""Talking to the shell on a real guest's console: numbered commands in, their output and status out.

The guest's end is the loop in INIT. Lines that begin with `@@` are the protocol's, all others are what a command
printed, or the kernel.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MODULE = "/virtio_balloon.ko"
_WORK = "/work/load"

INIT = f"""#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t tmpfs -o size=100% work /work
$B stty -echo -onlcr
: > {_WORK}

# alloc BYTES: grow the workload's file, which is memory and nothing else, as far as leaves the kernel room to live.
alloc() {{
    local want=$(( ($1 + 4095) / 4096 )) room have=$(( $($B stat -c %s {_WORK}) / 4096 ))
    room=$($B awk '/^MemAvailable:/ {{ print int(($2 - 8192) / 4) }}' /proc/meminfo)
    [ $want -le $room ] || want=$room
    [ $want -gt 0 ] || want=0
    local big=$(( want / 64 ))
    [ $big = 0 ] || $B dd if=/dev/zero bs=262144 count=$big 2>/dev/null >> {_WORK}
    want=$(( want - big * 64 ))
    [ $want = 0 ] || $B dd if=/dev/zero bs=4096 count=$want 2>/dev/null >> {_WORK}
    echo $(( $($B stat -c %s {_WORK}) - have * 4096 ))
}}

# free BYTES: cut the file's end off.
free() {{
    local have=$($B stat -c %s {_WORK}) less=$(( ($1 + 4095) / 4096 * 4096 ))
    [ $less -le $have ] || less=$have
    $B truncate -s $(( have - less )) {_WORK}
    echo $less
}}

echo "@@total $($B awk '/^MemTotal:/ {{ print $2 }}' /proc/meminfo)"
$B insmod {MODULE}
echo "@@up $?"
while IFS= read -r number && IFS= read -r line; do
    eval "$line"
    echo "@@$number $?"
done
$B poweroff -f
"""
"""The guest's /init. At the end of its input the guest switches itself off: whoever held the other end is gone."""

TAIL = 8192
"""Bytes of the console kept to explain an end."""

OUTPUT = 1 << 18
"""Bytes of one command's output that are kept."""

LINE = 200
"""Characters of a line that is shown to explain an end."""

_CHUNK = 1 << 16


class Console:
    """The host's end, on the guest's stdin and stdout, which do not block.

    `up` is the status with which the driver was loaded at boot, None before; `total` the kernel's MemTotal in bytes
    before that, 0 where it did not tell.
    """

    def __init__(self, to_guest: int, from_guest: int) -> None:
        self._to = to_guest
        self._from = from_guest
        self._rest = b""
        self._lines: list[bytes] = []
        self._size = 0
        self._number = 0
        self._waiting: dict[int, Callable[[int, str], object]] = {}
        self.tail = b""
        self.up: int | None = None
        self.total = 0
        self.ended = False
        """Whether the guest's output is at its end."""

    @property
    def fd(self) -> int:
        """The descriptor that becomes readable when the guest prints."""
        return self._from

    def send(self, command: str, answered: Callable[[int, str], object] | None = None) -> int:
        """Have the guest run one line of shell; returns its number. `answered` gets its status and output.

        Raises BlockingIOError where the guest does not read, BrokenPipeError where it is gone.
        """
        self._number += 1
        data = f"{self._number}\n{command}\n".encode()
        # Below PIPE_BUF a write is whole or not at all.
        os.write(self._to, data)
        if answered is not None:
            self._waiting[self._number] = answered
        return self._number

    def forget(self, number: int) -> None:
        """Nobody waits for a command's result any more."""
        self._waiting.pop(number, None)

    def receive(self) -> None:
        """Take what the guest printed, one piece of it. Never blocks."""
        try:
            data = os.read(self._from, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.ended = True
            return
        self.tail = (self.tail + data)[-TAIL:]
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-OUTPUT:]
        for line in lines:
            self._line(line)

    def _line(self, line: bytes) -> None:
        word, _, status = line.partition(b" ")
        if not word.startswith(b"@@") or not status.isdigit() or len(status) > 15:
            self._size += len(line)
            if self._size <= OUTPUT:
                self._lines.append(line)
            return
        if word == b"@@up":
            self.up = int(status)
        elif word == b"@@total":
            self.total = int(status) << 10
        lines, self._lines, self._size = self._lines, [], 0
        answered = self._waiting.pop(int(word[2:]), None) if word[2:].isdigit() else None
        if answered is not None:
            answered(int(status), b"\n".join(lines).decode("utf-8", "replace"))

    def last_words(self) -> str:
        """Return the line that explains an end best: that of a panic, else the last one printed."""
        lines = [line.strip() for line in self.tail.decode("utf-8", "replace").split("\n")]
        for line in lines:
            if "Kernel panic" in line:
                return line[line.index("Kernel panic") :][:LINE]
        said = [line for line in lines if line and not line.startswith("@@")]
        return said[-1][:LINE] if said else ""

    @property
    def panicked(self) -> bool:
        """Whether the kernel said that it panicked."""
        return b"Kernel panic - not syncing" in self.tail

    def close(self) -> None:
        """Close both ends."""
        for fd in (self._to, self._from):
            if fd >= 0:
                os.close(fd)
        self._to = self._from = -1
