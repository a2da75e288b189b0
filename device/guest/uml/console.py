"""Talks to the shell on a real guest's console: sends numbered commands, receives their output and status.

The loop in INIT is the guest's end. Lines that begin with `@@` belong to the protocol; a command or the kernel printed
all other lines.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from device.errors import MisuseError

Answer = Callable[[], tuple[int, str]]
"""Returns a command's status and output, or raises MisuseError if there was no answer."""

MODULE = "/virtio_balloon.ko"

# The workload is a file on tmpfs. The kernel cannot drop its pages as it drops those of a file on disk, and the guest
# has no swap, so each byte takes memory until the file is cut.
_WORK = "/work/load"

INIT = f"""#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t tmpfs -o size=100% work /work
$B stty -echo -onlcr
: > {_WORK}

# alloc BYTES: grow the workload's file, but leave the kernel 8 MiB of the memory that it has available.
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

# free BYTES: shorten the file.
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
"""The guest's /init. When its input ends, hmp has ended, so it powers the guest off."""

TAIL = 8192
"""Bytes of the console that are kept, to explain why a guest ended."""

OUTPUT = 1 << 18
"""Bytes of one command's output that are kept."""

LINE = 200
"""The most characters shown of the line that explains why a guest ended."""

_CHUNK = 1 << 16


class Console:
    """The host's end, on the guest's stdin and stdout, which do not block.

    `up` is the status of loading the driver at boot, None until then. `total` is the kernel's MemTotal in bytes before
    the driver was loaded, 0 if the guest did not say.
    """

    def __init__(self, to_guest: int, from_guest: int) -> None:
        self._to = to_guest
        self.fd = from_guest
        """The descriptor that becomes readable when the guest prints."""
        self._rest = b""
        self._lines: list[bytes] = []
        self._size = 0
        self._number = 0
        self._waiting: dict[int, Callable[[Answer], object]] = {}
        self.tail = b""
        self.up: int | None = None
        self.total = 0
        self.ended = False
        """Whether the guest's output is at its end."""

    def send(self, command: str, answered: Callable[[Answer], object] | None = None) -> int:
        """Make the guest run one line of shell; returns its number. `answered` is called with the answer.

        Raises BlockingIOError if the guest does not read, BrokenPipeError if it has ended.
        """
        # A command that timed out still runs. The number shows that its late answer is not that of the next command.
        self._number += 1
        data = f"{self._number}\n{command}\n".encode()
        # A pipe takes a write of up to PIPE_BUF bytes whole or not at all, so a command is never cut in two.
        os.write(self._to, data)
        if answered is not None:
            self._waiting[self._number] = answered
        return self._number

    def forget(self, number: int) -> None:
        """Drop the answer of command `number` when it comes."""
        self._waiting.pop(number, None)

    def fail(self, error: MisuseError, *numbers: int) -> None:
        """Answer these commands with an error, or all that wait if no number is given."""

        def answer() -> tuple[int, str]:
            raise error

        for number in numbers or tuple(self._waiting):
            self._waiting.pop(number)(answer)

    def receive(self) -> None:
        """Take one piece of what the guest printed. Never blocks."""
        # Only one read, because a guest that prints without end must not keep the machine from its other work.
        try:
            data = os.read(self.fd, _CHUNK)
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
        # The guest's programs can print anything, so a line of the protocol is checked like other input. Python refuses
        # to convert more than 4300 digits; 15 are more than a status or a size in KiB has.
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
            answered(lambda: (int(status), b"\n".join(lines).decode("utf-8", "replace")))

    def end_reason(self) -> str:
        """Return the line that best explains why the guest ended: a panic's, else the last one printed."""
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
        """Close both descriptors. A second call does nothing."""
        for fd in (self._to, self.fd):
            if fd >= 0:
                os.close(fd)
        self._to = self.fd = -1
