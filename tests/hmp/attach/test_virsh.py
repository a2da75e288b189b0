"""A libvirt domain, by a virsh that is a script: what it is asked, and what it may answer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from device.clock import Clock
from hmp.attach.address import Place
from hmp.attach.virsh import VirshLink, quoted
from tests.support.shell import Ended, hmp

VIRSH = """#!/usr/bin/env python3
import os, signal, sys
print("Welcome to virsh, the virtualization interactive terminal.\\n", flush=True)
folder = os.path.dirname(__file__)
log = open(folder + "/log", "a")
log.write(" ".join(sys.argv[1:]) + "\\n")
behaviour = open(folder + "/behaviour").read()
if behaviour == "refused":
    print("error: failed to connect to the hypervisor\\nerror: no polkit agent", file=sys.stderr)
    sys.exit(1)
if behaviour == "hangs":
    signal.pause()
if behaviour == "endless":
    while True:
        print("y" * 99)
if behaviour == "line":
    while True:
        print("\\x1b[31m" * 99, end="")
update = period = 0
while True:
    sys.stdout.write("virsh # ")
    sys.stdout.flush()
    line = sys.stdin.readline()
    if not line:
        break
    print(line.rstrip(), flush=True)
    log.write(line)
    log.flush()
    if line.startswith("echo "):
        print(line[5:].rstrip())
        continue
    if behaviour == "dies" and "--period" in line:
        sys.exit(1)
    if behaviour == "binary":
        sys.stdout.buffer.write(b"\\xff\\0\\x1b[1m\\n")
    elif behaviour == "bare":
        print()
    elif behaviour == "nonsense":
        print("<<<>>>")
    elif line.startswith("domstate"):
        print("shut off" if behaviour == "off" else "running")
    elif line.startswith("dumpxml"):
        stats = "<stats period='%d'/>" % period if period else ""
        print("<domain><metadata><memballoon model='none'/></metadata><memory unit='KiB'>262144</memory><devices>")
        print("<memballoon model='%s'>" % ("none" if behaviour == "none" else "virtio") + stats + "</memballoon></devices></domain>")
    elif "--period" in line:
        period = int(line.split("--period")[1].split()[0])
        update += behaviour != "silent"
    elif line.startswith("dommemstat"):
        print("actual 262144\\nswap_in 0\\nmajor_fault 3\\nunused %d\\navailable 230000\\nlast_update %d\\nrss 9" % (1000 + update, update))
    elif "info kvm" in line:
        print('{"return": "kvm support: disabled\\\\r\\\\n", "id": "libvirt-7"}')
    elif "qemu-monitor-command" in line:
        print('{"id": "libvirt-8", "error": {"class": "GenericError", "desc": "no"}}')
    else:
        print("error: unknown command: '%s'" % line.split()[0], file=sys.stderr)
    print()
"""

FRESH = "balloon: actual=256,mem_swapped_in=0,major_page_faults=3,free_mem=1025024,total_mem=235520000\n"


class Fake:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "virsh").write_text(VIRSH)
        (folder / "virsh").chmod(0o755)
        self.behave("well")

    def behave(self, how: str) -> None:
        (self.folder / "behaviour").write_text(how)

    def asked(self) -> list[str]:
        """The lines that it was given, without the marks between them."""
        lines = (self.folder / "log").read_text().splitlines()
        return [line for line in lines if not line.startswith("echo ")]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    from tests.support.shell import environment

    before = environment()["PATH"]
    environment()["PATH"] = f"{tmp_path}{os.pathsep}{before}"
    yield Fake(tmp_path)
    environment()["PATH"] = before


def attached(*arguments: str, place: str = "libvirt:vm1") -> Ended:
    return hmp("--attach", place, "--timeout", "1", *arguments)


def test_a_fresh_answer_taints_nothing_and_puts_the_period_back(fake: Fake) -> None:
    assert attached("--fail-stale", "-c", "info balloon") == Ended(0, FRESH, "")
    asked = fake.asked()
    assert not [line for line in asked if "qemu-monitor-command" in line]
    assert [line for line in asked if "--period" in line] == [
        f"dommemstat --domain 'vm1' --period {period} --live" for period in (1, 0)
    ]


def test_no_answer_is_stale(fake: Fake) -> None:
    fake.behave("silent")
    ended = attached("--fail-stale", "-c", "info balloon")
    assert ended.status == 3
    assert ended.out.startswith("balloon: actual=256,age=1")
    assert ended.err == "hmp: not fresh: the guest did not answer\n"
    assert fake.asked()[-1].endswith("--period 0 --live")


def test_other_commands_go_to_qemu_and_the_taint_is_warned_of_once(fake: Fake) -> None:
    ended = attached("--allow-disruptive", "-c", "info kvm", "-c", "it's", place="libvirt:vm1,uri=test:///x")
    assert ended.status == 1
    assert ended.out == "kvm support: disabled\nError: no\n"
    assert ended.err.count("tainted") == 1
    assert fake.asked()[0] == "-c test:///x"
    assert '\'{"execute": "human-monitor-command"' in fake.asked()[-1]
    assert "it\\u0027s" in fake.asked()[-1]


@pytest.mark.parametrize(
    ("behaviour", "status", "told"),
    [
        ("refused", 4, "hmp: libvirt:vm1: failed to connect to the hypervisor: no polkit agent\n"),
        ("off", 4, "hmp: libvirt:vm1: the domain is not running: shut off\n"),
        ("nonsense", 4, "hmp: libvirt:vm1: the domain is not running: <<<>>>\n"),
        ("none", 1, "No balloon device has been activated"),
        pytest.param("hangs", 4, "hmp: libvirt:vm1: no answer within 10 s\n", marks=pytest.mark.slow),
        pytest.param("endless", 4, "hmp: libvirt:vm1: virsh prints without end\n", marks=pytest.mark.slow),
        ("line", 4, "hmp: libvirt:vm1: virsh prints a line without end\n"),
        ("bare", 4, "hmp: libvirt:vm1: cannot understand the answer of virsh: nothing\n"),
        ("binary", 4, "hmp: libvirt:vm1: the domain is not running: \ufffd\\x00\\x1b[1m\n"),
    ],
)
def test_each_error_of_virsh_is_one_line(fake: Fake, behaviour: str, status: int, told: str) -> None:
    fake.behave(behaviour)
    ended = attached("-c", "info balloon")
    assert ended.status == status
    assert told in ended.err
    if status == 4:
        assert ended == Ended(4, "", told)


def test_a_virsh_that_dies_is_started_anew(fake: Fake) -> None:
    fake.behave("dies")
    ended = attached("-c", "info balloon")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith("balloon: actual=256,age=1")


def test_a_missing_virsh_is_an_error(tmp_path: Path) -> None:
    from tests.support.shell import environment

    before = environment()["PATH"]
    environment()["PATH"] = str(tmp_path)
    try:
        ended = attached("-c", "info balloon")
    finally:
        environment()["PATH"] = before
    line = "hmp: libvirt:vm1: virsh cannot be run: No such file or directory (Debian: libvirt-clients)\n"
    assert ended == Ended(4, "", line)


@pytest.mark.parametrize("name", ["vm 1", 'it\'s "one"', "vm\\1", "vm;list", "-", "a--b", "vm,1", "v\u00e4m"])
def test_a_domain_may_be_called_anything(fake: Fake, name: str) -> None:
    if name == "-":
        ended = attached("-c", "info balloon", place="libvirt:-")
        assert ended == Ended(2, "", "hmp: --attach: 'libvirt:-': a domain's name does not begin with '-'\n")
        return
    assert attached("-c", "info balloon", place=f"libvirt:{name.replace(',', ',,')}") == Ended(0, FRESH, "")
    assert f"domstate --domain {quoted(name)}" in fake.asked()


def test_a_domain_whose_name_would_be_two_lines_is_refused(fake: Fake) -> None:
    ended = attached("-c", "info balloon", place="libvirt:vm1\nlist")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("hmp: --attach: 'libvirt:vm1\\x0alist': ")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("2026-11-27 08:25:13.250+0000: event STOP for domain 'vm1'",
         {"event": "STOP", "timestamp": {"seconds": 1795767913, "microseconds": 250000}}),
        ("2026-11-27 08:25:13.000+0000: event BALLOON_CHANGE for domain 'a b': {\"actual\":7}",
         {"event": "BALLOON_CHANGE", "timestamp": {"seconds": 1795767913, "microseconds": 0}, "data": {"actual": 7}}),
        ("2026-11-27 08:25:13.000+0000: event STOP for domain 'vm1': {nonsense}", None),
        ("yesterday: event STOP for domain 'vm1'", None),
        ("Welcome", None),
    ],
)  # fmt: skip
def test_events_are_those_of_qemu(line: str, told: object) -> None:
    link = VirshLink(Clock("real", time.monotonic_ns, time.time_ns), Place("libvirt:vm1"), events=True)
    heard: list[object] = []
    link.on_event = heard.append
    link._event(line)
    assert heard == ([told] if told else [])


def test_words_are_quoted_as_virsh_reads_them() -> None:
    assert quoted("vm 1") == "'vm 1'"
    assert quoted("a'b") == "'a'\\''b'"
