"""hmp in a web page, without the page: what its terminals show for what is typed, in virtual time."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pyte
import pytest

from device.errors import MisuseError
from device.fields import SnapshotError
from hmp import web
from hmp.monitor import snapshots
from hmp.web import NOT_HERE, TYPED_LIMIT, Page, start
from tests.support.loop import VirtualLoop
from tests.support.machines import build
from tests.support.shell import shell


class Shown:
    """A page whose terminals are screens of 60 rows; 200 columns, as pyte's BS does not go back over a row's beginning."""

    def __init__(self, **options: str) -> None:
        self.sent: list[bytes] = []
        self.ended: list[str] = []
        self.screens: list[pyte.ByteStream] = []
        self.unseen: list[bytearray] = []
        self.eager = True
        self.told: dict[str, list[str]] = {"complaint": [], "snapshots": [], "ended": self.ended}
        self.page = start(options, self._send, lambda kind, text: self.told[kind].append(text))

    def open(self) -> web.Terminal:
        self.unseen.append(bytearray())
        self.screens.append(pyte.ByteStream(pyte.Screen(200, 60)))
        return self.page.open()

    async def save(self) -> tuple[web.Terminal, bytes]:
        """Save a snapshot of a new machine as `good`; return the terminal and the snapshot."""
        terminal = self.open()
        terminal.feed(b"savevm good\r")
        await self.until(lambda: self.told["snapshots"])
        return terminal, self.page.snapshot("good")

    def _send(self, number: int, data: bytes) -> None:
        self.sent.append(data)
        self.unseen[number] += data
        if self.eager:  # later, as messages come
            asyncio.get_running_loop().call_soon(lambda: self.page.terminals[number].shown(len(data)))

    def screen(self, number: int = 0) -> list[str]:
        self.screens[number].feed(bytes(self.unseen[number]))  # only now: pyte is slow
        self.unseen[number].clear()
        lines = [line.rstrip() for line in self.screens[number].listener.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines[1:]  # without the banner

    async def until(self, found: Callable[[], object]) -> None:
        """Wait until something is so; the virtual loop fails where nothing more would happen."""
        while not found():
            await asyncio.sleep(0.05)

    async def says(self, last: str, number: int = 0) -> list[str]:
        await self.until(lambda: self.screen(number)[-1:] == [last])
        return self.screen(number)


def play(scene: Callable[[Shown], Awaitable[None]], **options: str) -> None:
    async def run() -> None:
        asyncio.get_running_loop().limit = 60  # type: ignore[attr-defined]
        shown = Shown(**options)
        shown.page.machine.clock.simulated or shown.page.driver.reschedule()
        try:
            await scene(shown)
        finally:
            shown.page.close()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real clock of these pages is that of the virtual loop."""

    def real() -> object:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        return loop.machine_clock()

    monkeypatch.setitem(web.CLOCKS, "real", (real, ""))


class TestTyping:
    def test_banner_prompt_and_a_command(self) -> None:
        async def scene(shown: Shown) -> None:
            terminal = shown.open()
            assert shown.screen() == ["(qemu)"]
            assert terminal.feed(b"info status\r") == ""
            assert await shown.says("(qemu)") == ["(qemu) info status", "VM status: running", "(qemu)"]

        play(scene)

    def test_there_are_64_mib_unless_the_page_says_otherwise(self) -> None:
        async def scene(shown: Shown) -> None:
            shown.open().feed(b"info balloon\r")
            await shown.until(lambda: "actual=64," in "".join(shown.screen()))

        play(scene)

    def test_tab_and_history(self) -> None:
        async def scene(shown: Shown) -> None:
            terminal = shown.open()
            terminal.feed(b"info statu\t\r")
            await shown.until(lambda: shown.screen().count("VM status: running") == 1)
            terminal.feed(b"\x1b[A\r")
            await shown.until(lambda: shown.screen().count("VM status: running") == 2)

        play(scene)

    def test_keys_within_a_line(self) -> None:
        async def scene(shown: Shown) -> None:
            shown.open().feed(b"inf\tstatx\x08us\x01\x1b[C\x1b[3~n\r")
            await shown.until(lambda: "VM status: running" in shown.screen())

        play(scene)

    def test_a_line_is_drawn_without_what_stops_at_a_row_s_end(self) -> None:
        async def scene(shown: Shown) -> None:
            shown.open().feed(b"stop\x01\x1b[Cx\x05\x7fs")
            await shown.says("(qemu) sxtos")
            assert not re.search(rb"\x1b\[[CDK]", b"".join(shown.sent))

        play(scene)

    def test_ctrl_c_clears_the_line_and_what_is_typed_ahead_of_it(self) -> None:
        async def scene(shown: Shown) -> None:
            terminal = shown.open()
            terminal.feed(b"sto")
            terminal.feed(b"p\rinfo name\x03info sta")
            terminal.feed(b"tus\r")
            assert await shown.says("(qemu)") == ["(qemu) info status", "VM status: running", "(qemu)"]

        play(scene)

    def test_too_long_a_paste_is_refused_in_one_line_and_nothing_of_it_runs(self) -> None:
        async def scene(shown: Shown) -> None:
            terminal = shown.open()
            complaint = terminal.feed(b"quit\r" * (10 << 18))
            assert complaint.startswith("too much at once: 13,107,200 bytes; 65,536 may wait")
            assert "\n" not in complaint
            terminal.feed(b"info name\r" * (TYPED_LIMIT // 10))
            await shown.until(lambda: b"".join(shown.sent).count(b"\n(qemu) ") > TYPED_LIMIT // 10)
            assert not shown.page.machine.over

        play(scene)

    def test_a_terminal_that_does_not_keep_up_is_waited_for(self) -> None:
        async def scene(shown: Shown) -> None:
            terminal = shown.open()
            shown.eager = False
            terminal.feed(b"help\r" * 100)
            await asyncio.sleep(5)
            held = sum(map(len, shown.sent))
            await asyncio.sleep(5)
            assert held == sum(map(len, shown.sent)) < 1 << 20
            shown.eager = True
            terminal.shown(held)
            await shown.until(lambda: b"".join(shown.sent).count(b"\n(qemu) ") >= 100)

        play(scene)


class TestWaiting:
    def test_the_countdown_and_the_age(self) -> None:
        async def scene(shown: Shown) -> None:
            shown.open().feed(b"info balloon\rsim hang\rinfo balloon\r")
            await shown.says("waiting for the guest ... 4.0 s")
            await shown.says("waiting for the guest ... 0.1 s")
            lines = await shown.says("(qemu)")
            assert re.search(r",age=50\d\d$", lines[-2])
            assert not [line for line in lines if "waiting" in line]

        play(scene)

    def test_ctrl_c_gives_the_prompt_back(self) -> None:
        async def scene(shown: Shown) -> None:
            terminal = shown.open()
            terminal.feed(b"sim hang\rinfo balloon\r")
            await shown.says("waiting for the guest ... 3.0 s")
            terminal.feed(b"\x03")
            assert shown.screen()[-2:] == ["(qemu) info balloon", "(qemu)"]
            terminal.feed(b"info status\r")
            assert (await shown.says("(qemu)"))[-2] == "VM status: running"

        play(scene)

    def test_ctrl_c_between_the_pieces_of_an_answer_gives_the_prompt_back(self) -> None:
        async def scene(shown: Shown) -> None:
            shown.open().feed(b'sim reply "info status" usual split 3 5\r')
            await shown.says("(qemu)")
            other = shown.open()
            other.feed(b"info status\r")
            await asyncio.sleep(7)  # of the virtual loop
            other.feed(b"\x03")
            other.feed(b"info kvm\r")
            await shown.until(lambda: shown.screen(1)[-2:] == ["kvm support: disabled", "(qemu)"])
            assert "VM status: running" not in shown.screen(1)

        play(scene)

    def test_on_the_warp_clock_nothing_is_waited_for(self) -> None:
        async def scene(shown: Shown) -> None:
            shown.open().feed(b"sim hang\rinfo balloon\r")
            await shown.until(lambda: shown.screen()[-2:-1] and shown.screen()[-2].endswith("age=5000"))
            assert b"waiting" not in b"".join(shown.sent)
            assert asyncio.get_running_loop().time() < 5

        play(scene, clock="warp")


class TestTwoTerminals:
    def test_what_one_does_the_other_sees(self) -> None:
        async def scene(shown: Shown) -> None:
            one, other = shown.open(), shown.open()
            other.feed(b"inf")
            await shown.says("(qemu) inf", 1)
            one.feed(b"stop\r")
            await shown.says("(qemu)")
            assert await shown.says("(qemu) inf", 1) == ["[the VM is stopped]", "(qemu) inf"]
            other.feed(b"o status\r")
            await shown.until(lambda: "VM status: paused" in shown.screen(1))
            assert shown.screen(0) == ["(qemu) stop", "(qemu)"]

        play(scene)

    def test_an_event_leaves_the_cursor_where_it_was(self) -> None:
        async def scene(shown: Shown) -> None:
            one, other = shown.open(), shown.open()
            other.feed(b"nfo name\x01")
            one.feed(b"stop\r")
            await shown.until(lambda: "[the VM is stopped]" in shown.screen(1))
            other.feed(b"i")
            await shown.says("(qemu) info name", 1)

        play(scene)

    def test_the_end_is_reported_once(self) -> None:
        async def scene(shown: Shown) -> None:
            one, other = shown.open(), shown.open()
            one.feed(b"quit\r")
            await shown.until(lambda: shown.ended)
            assert shown.ended == ["the machine ended (host-qmp-quit)"]
            assert other.feed(b"info status\r") == ""

        play(scene)


class TestDownloads:
    def test_the_cast_is_what_the_terminal_was_sent(self) -> None:
        async def scene(shown: Shown) -> None:
            terminal = shown.open()
            terminal.feed(b"info status\r")
            await shown.says("(qemu)")
            terminal.resize(100, 30)
            terminal.feed(b"stop\r")
            await shown.says("(qemu)")
            header, *lines = terminal.cast().decode().splitlines()
            assert json.loads(header) == {"version": 2, "width": 80, "height": 24, "title": "hmp"}
            events = [json.loads(line) for line in lines]
            assert [data for _, kind, data in events if kind == "r"] == ["100x30"]
            sent = b"".join(shown.sent).decode().removeprefix("\x1b[?45h")
            assert "".join(data for _, kind, data in events if kind == "o") == sent

        play(scene)

    def test_a_recording_ends_where_it_would_fill_the_page(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(web, "TAPE_LIMIT", 4096)

        async def scene(shown: Shown) -> None:
            terminal = shown.open()
            terminal.feed(b"help\r" * 4)
            await shown.until(lambda: b"".join(shown.sent).count(b"\n(qemu) ") >= 4)
            assert len(shown.told["complaint"]) == 1
            assert shown.told["complaint"][0].startswith("the recording ends here: a page keeps no more")
            assert [json.loads(line) for line in terminal.cast().splitlines()]

        play(scene)

    def test_a_snapshot_goes_out_and_comes_back(self) -> None:
        async def scene(shown: Shown) -> None:
            terminal, data = await shown.save()
            terminal.feed(b"delvm good\r")
            await shown.until(lambda: shown.told["snapshots"][-1] == "")
            assert shown.page.upload("other.hmpsnap", data) == "other"
            assert shown.told["snapshots"][-1] == "other"
            terminal.feed(b"sim hang\rloadvm other\rinfo snapshots\r")
            await shown.until(lambda: "--        other" in "\n".join(shown.screen()))
            assert shown.page.machine.guest.shown() == {}

        play(scene, clock="warp")

    def test_the_command_line_loads_it(self, tmp_path: Path) -> None:
        async def scene(shown: Shown) -> None:
            shown.open().feed(b"sim hang\rsavevm good\r")
            await shown.until(lambda: shown.told["snapshots"])
            (tmp_path / "good.hmpsnap").write_bytes(shown.page.snapshot("good"))

        play(scene, clock="warp")
        command = f"hmp --clock warp -m 64 --snapshot-dir {tmp_path} -c 'loadvm good' -c sim | grep hung"
        assert shell(command).out == "            hung: yes\n"

    def test_snapshots_on_the_real_clock_are_reported_when_they_are_done(self) -> None:
        async def scene(shown: Shown) -> None:
            shown.open().feed(b"".join(b"savevm s%d\r" % number for number in range(9)))
            await shown.until(lambda: shown.told["snapshots"] and shown.told["snapshots"][-1].count("s") == 9)

        play(scene)

    @pytest.mark.parametrize(
        ("name", "data", "words"),
        [
            ("x.hmpsnap", b"", "not a snapshot, or cut short"),
            ("x.hmpsnap", b"\x7fELF" * 1000, "not a snapshot of hmp"),
            ("../x.hmpsnap", b"", "cannot name a snapshot"),
            (".hmpsnap", b"", "cannot name a snapshot"),
            ("x" * 200, b"", "cannot name a snapshot"),
            ("\x1b[2J", b"", "cannot name a snapshot"),
        ],
    )
    def test_an_upload_that_is_no_snapshot_is_refused(self, name: str, data: bytes, words: str) -> None:
        async def scene(shown: Shown) -> None:
            with pytest.raises(SnapshotError, match=words):
                shown.page.upload(name, data)
            assert shown.told["snapshots"] == []

        play(scene)

    def test_a_damaged_upload_changes_nothing(self) -> None:
        async def scene(shown: Shown) -> None:
            terminal, saved = await shown.save()
            data = bytearray(saved)
            data[-50] ^= 1
            shown.page.upload("bad", bytes(data))
            terminal.feed(b"sim hang\rloadvm bad\r")
            await shown.until(lambda: "Error: cannot load snapshot 'bad'" in "\n".join(shown.screen()))
            assert shown.page.machine.guest.shown() == {"hung": "yes"}

        play(scene, clock="warp")

    def test_all_uploads_together_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(snapshots, "BYTES_LIMIT", 1 << 20)

        async def scene(shown: Shown) -> None:
            with pytest.raises(SnapshotError, match="1 MiB together"):
                shown.page.upload("big", bytes(2 << 20))
            with pytest.raises(SnapshotError, match="'good' does not exist"):
                shown.page.snapshot("good")

        play(scene)


class TestClosing:
    def test_another_machine_follows_whatever_the_one_before_was_at(self) -> None:
        async def scene(shown: Shown) -> None:
            before = len(asyncio.all_tasks())
            terminal = shown.open()
            terminal.feed(b"sim hang\rinfo balloon\r")
            await shown.says("waiting for the guest ... 3.0 s")
            shown.page.close()
            sent = len(shown.sent)
            shown.page = start({}, lambda number, data: None)
            await asyncio.sleep(10)
            assert len(shown.sent) == sent
            assert len(asyncio.all_tasks()) == before

        play(scene)

    def test_another_machine_follows_behind_the_end_of_one(self) -> None:
        async def scene(shown: Shown) -> None:
            shown.open().feed(b"quit\r")
            await shown.until(lambda: shown.ended)

        play(scene)


class TestRefusals:
    def test_a_real_guest_cannot_be_had_there(self) -> None:
        async def scene(shown: Shown) -> None:
            shown.open().feed(b"sim guest uml\r")
            await shown.until(lambda: NOT_HERE.strip() in shown.screen())

        play(scene)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"ram": "lots"}, "'lots' is not a size"),
            ({"ram": "1M"}, "between 4M and 16T"),
            ({"guest": "nobody"}, "nobody"),
            ({"guest": "uml"}, "not in a web page"),
            ({"clock": "sun"}, "clock: 'sun' is not known"),
            ({"dialect": "x"}, "dialect: 'x' is not known"),
            ({"record": "x"}, "record: 'x' is not known"),
        ],
    )
    def test_options_that_cannot_be(self, options: dict[str, str], words: str) -> None:
        with pytest.raises(MisuseError, match=words) as caught:
            start({"clock": "warp", **options}, lambda number, data: None)
        assert "\n" not in str(caught.value)

    def test_a_page_takes_a_machine_of_its_own(self) -> None:
        async def run() -> int:
            page = Page(build(), lambda number, data: None, lambda kind, text: None, "seed")
            page.open()
            return page.clients

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            assert runner.run(run()) == 1
