"""The same lines to a real QEMU and to us: values of expressions, errors, and how arguments and options are read."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from hmp.monitor import SyntaxRefused, grammar
from hmp.monitor.grammar import signed
from tests.support.machines import build, monitor, say
from tests.support.qemu import Oracle, needs_qemu, oracle

pytestmark = needs_qemu

LITERALS = ["0", "1", "2", "7", "010", "0x1f", "0XFF", "'a'", "' '", "4294967296", "0x7fffffffffffffff",
            "9223372036854775808", "18446744073709551615", "18446744073709551616", "0777777777777777777777", "09"]  # fmt: skip
GARBAGE = " 0019xg()+-*/%&|^~'\"@,.;"


@pytest.fixture(scope="module")
def qemu() -> Iterator[Oracle]:
    with oracle() as asked:
        yield asked


@pytest.fixture(scope="module")
def bare_qemu() -> Iterator[Oracle]:
    with oracle(balloon=False) as asked:
        yield asked


def expression(random: random.Random, depth: int) -> str:
    """A well-formed expression. What divides is never -1, which kills QEMU under -2^63; it may be 0."""
    kind = random.randrange(7) if depth else 0
    blank = random.choice(["", "", "", " ", "\t"])
    if kind <= 1:
        return random.choice(LITERALS) + blank
    if kind == 2:
        return random.choice("+-~") + blank + expression(random, depth - 1)
    if kind == 3:
        return f"({blank}{expression(random, depth - 1)}){blank}"
    left, operator, right = expression(random, depth - 1), random.choice("+-*&|^/%"), expression(random, depth - 1)
    if operator in "/%":
        right = f"(({right})&0xff)"
    return left + operator + blank + right


def ours(text: str) -> str:
    """What QEMU's `print` would say, by our grammar."""
    try:
        value, at = grammar.expression(text)
        refused = "" if at == len(text) else "print|p: extraneous characters at the end of line"
    except SyntaxRefused as error:
        refused = str(error)
    return f'{refused}\nTry "help print" for more information\n' if refused else f"{value}\n"


@pytest.mark.parametrize("seed", range(20))
def test_random_expressions_have_the_same_value_or_the_same_error(qemu: Oracle, seed: int) -> None:
    source = random.Random(seed)
    for _ in range(25):
        text = expression(source, source.randrange(6))
        said = qemu.say(f"print {text}")
        if said.startswith("0"):  # bare hexadecimal, or 0
            said = f"{signed(int(said, 16))}\n"
        assert (text, ours(text)) == (text, said)


@pytest.mark.parametrize("seed", range(20))
def test_garbage_behind_balloon_is_refused_in_the_same_words(qemu: Oracle, seed: int) -> None:
    source = random.Random(seed)
    subject = monitor(build("nodriver", paused=True), "qemu")
    for _ in range(25):
        line = "balloon " + "".join(source.choices(GARBAGE, k=source.randrange(12)))
        assert (line, say(subject, line)) == (line, qemu.say(line))


def test_deep_nesting_is_no_error_there_and_here(qemu: Oracle) -> None:
    subject = monitor(build("nodriver", paused=True), "qemu")
    for line in (
        "balloon " + "(" * 1000 + "256" + ")" * 1000,
        "balloon " + "-~" * 1000 + "-256",
        "balloon " + "(" * 999,
    ):
        assert say(subject, line) == qemu.say(line)


LINES = """\
  balloon
\tballoon x
balloon/1
balloon $
balloon 0
balloon 17592186044416
balloon 8796093022208
balloon 0x7fffffffffffffff
balloon 1 1
/
 /
 /x
  foo bar
BALLOON 1
info/balloon
info /balloon
info balloon x
info balloon/x
info  balloon
info\tballoon
info "balloon"
infoballoon
info -x
info status;info status
info nosuch thing
stop x
s x
c/
cont/
quit now
system_reset 1
?balloon
help nosuch
help info nosuch
help ""
help help/
help info/ balloon
qom-set -j /machine
qom-set -x /machine
qom-set - /machine x y
qom-set -jx /machine x y
qom-list /machine/peripheral x
qom-get /machine
qom-get
info virtio-status
info virtio-queue-status x
info virtio-queue-status x 1 2
info virtio-queue-element x 1 2 3
info virtio-queue-status x -1
info virtio-queue-status x 4294967296
info virtio-queue-status x 1+1
#
# foo
info status # foo
info status
info name
info uuid
info kvm
info memory_size_summary
device_del
device_del nosuch
device_del " a"
device_del a"b
device_del "balloon1"x
device_del balloon0,id=x
device_add
device_add ,
device_add =
device_add foo=bar
device_add nosuch,id=x
device_add virtio-balloon-pci
device_add virtio-balloon,id=balloon0
device_add virtio-balloon-pci,,id=x
device_add virtio-balloon-pci id=x
device_add virtio-balloon-pci,foo
device_add virtio-balloon-pci,nosuch
device_add virtio-balloon-pci,no
device_add virtio-balloon-pci,nodeflate-on-oom
device_add virtio-balloon-pci,deflate-on-oom=1
device_add virtio-balloon-pci,deflate-on-oom=yes
loadvm
delvm
savevm a b\
""".splitlines()


@pytest.mark.parametrize("line", LINES)
def test_the_same_reply_to_lines_that_change_nothing(qemu: Oracle, line: str) -> None:
    subject = monitor(build("nodriver", paused=True), "qemu")
    assert say(subject, line) == qemu.say(line)


LONG = ["x" * 300, "info " + "x" * 300, f"device_del {'a' * 1100}", f'device_del "{"a" * 1100}" x', "x" * 254 + "/"]


@pytest.mark.parametrize("line", LONG, ids=lambda line: line[:16])
def test_names_and_strings_are_as_long_as_qemus_buffers(qemu: Oracle, line: str) -> None:
    assert say(monitor(build("nodriver", paused=True), "qemu"), line) == qemu.say(line)


ADDED = [
    ("driver=virtio-balloon-pci,id=a", "a"),
    ("id=a,driver=virtio-balloon-pci", "a"),
    ("virtio-balloon-pci,id=a,id=b", "a"),
    ("virtio-balloon,id=a-.9_Z", "a-.9_Z"),
    ("nosuch,driver=virtio-balloon-pci,id=a", "a"),
    ("virtio-balloon-pci,id=a,", "a"),
    ("virtio-balloon-pci,id=a,nodeflate-on-oom", "a"),
    ("virtio-balloon-pci,id=a,deflate-on-oom", "a"),
    ("virtio-balloon-pci,id=a,deflate-on-oom=y,deflate-on-oom=n", "a"),
    ('"virtio-balloon-pci,id=a"', "a"),
]


@pytest.mark.parametrize(("spec", "id"), ADDED)
def test_option_lists_are_read_alike(spec: str, id: str) -> None:
    subject = monitor(build("nodriver", paused=True, balloon=False), "qemu")
    lines = [f"device_add {spec}", f"device_add virtio-balloon-pci,id={id}"]
    lines += [f"qom-get /machine/peripheral/{id} {name}" for name in ("deflate-on-oom", "page-poison", "hotplugged")]
    lines += [f"device_del {id}x", f"device_del {id}", "info balloon"]
    with oracle(balloon=False) as qemu:
        for line in lines:
            assert (line, say(subject, line)) == (line, qemu.say(line))


BAD = ["virtio-balloon-pci,,", "virtio-balloon-pci,driver", "driver=", "driver", "virtio-balloon-pci,=on",
       "virtio-balloon-pci,=", "virtio-balloon-pci,deflate-on-oom=", "virtio-balloon-pci,deflate-on-oom=ON",
       "virtio-balloon-pci,deflate-on-oom=o,,n", "virtio-balloon-pci,Deflate-On-Oom=on", "id=x",
       '"virtio-balloon-pci , foo"', "VIRTIO-BALLOON-PCI", "virtio-balloon-ccw"]  # fmt: skip


@pytest.mark.parametrize("spec", BAD)
def test_bad_option_lists_are_refused_alike(bare_qemu: Oracle, spec: str) -> None:
    subject = monitor(build("nodriver", paused=True, balloon=False), "qemu")
    for line in (f"device_add {spec}", "info balloon"):
        assert (line, say(subject, line)) == (line, bare_qemu.say(line))
