"""The vhost-user transport: front ends that come and go, stopped machines, unplugged devices, the socket's path."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device.balloon.spec import CONFIG_ACTUAL, DEFLATE, F_DEFLATE_ON_OOM, FREE, INFLATE, STATS
from device.clock import SimulatedClock
from device.errors import MisuseError
from device.guest.table import make_guest
from device.guest.vhost_user import wire
from device.machine.machine import Machine
from device.virtio.spec import F_VERSION_1, MIB, bit
from tests.support.descriptors import open_descriptors
from tests.support.frontend import FEATURES, FrontEnd
from tests.support.real import Real

PAIR = struct.Struct("<II")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "sock")


@pytest.fixture
def real(path: str) -> Iterator[Real]:
    with Real(f"vhost-user,path={path}", memory=16) as real:
        yield real


@pytest.fixture
def front(real: Real, path: str) -> Iterator[FrontEnd]:
    with FrontEnd(real, path) as front:
        yield front


class TestLife:
    def test_the_front_end_leaves_in_mid_request(self, real: Real, front: FrontEnd) -> None:
        front.up(prime=[(FREE, 7)])
        request = real.machine.request_stats(200_000_000)
        front.close()
        real.machine.step()  # and no timer, however long that takes
        assert real.named("GUEST_GONE") == [{"why": "its front end hung up"}]
        assert request.state == "pending"
        real.until(lambda: request.state != "pending")
        assert request.state == "timed out"
        assert real.sample == {FREE: 7}
        assert real.guest.shown()["gone"] == "its front end hung up"

    def test_another_one_may_come(self, real: Real, path: str) -> None:
        with FrontEnd(real, path) as front:
            front.up(prime=[(FREE, 7)])
            front.pages(INFLATE, [1000])
        real.turn(0.01)
        with FrontEnd(real, path) as front:
            front.up(prime=[(FREE, 8)])
            assert real.sample == {FREE: 8}
            assert real.device.pages.count == 0
            assert real.guest.shown() == {}

    def test_a_second_one_waits_in_line(self, real: Real, front: FrontEnd, path: str) -> None:
        front.up()
        with FrontEnd(real, path) as second:
            second.send(wire.NUMBERS["GET_FEATURES"])
            with pytest.raises(BlockingIOError):
                second.reply()
            front.close()
            second.serve()
            assert second.reply()[0] == wire.NUMBERS["GET_FEATURES"]

    def test_while_the_vm_is_stopped_messages_are_answered_and_kicks_wait(self, real: Real, front: FrontEnd) -> None:
        front.up()
        real.machine.stop()
        request = real.machine.request_stats(10**10)
        assert front.queues[STATS].take() is not None
        front.fill([(FREE, 5)])
        front.kick(STATS)
        assert front.ask_number(wire.NUMBERS["GET_QUEUE_NUM"]) == 5
        assert request.state == "pending"
        assert len(real.machine.wait_for()[0]) == 1  # a kick that waits must not wake us all the time
        real.machine.cont()
        assert request.state == "answered"

    def test_reset_drops_the_front_end(self, real: Real, front: FrontEnd) -> None:
        front.up()
        real.machine.reset()
        assert front.cut_off
        assert real.named("GUEST_GONE") == []
        assert real.guest.booting

    def test_unplugging_waits_for_the_driver_and_plugging_in_brings_it_up_again(
        self, real: Real, front: FrontEnd
    ) -> None:
        front.up()
        real.machine.device_del("balloon0")
        assert real.machine.device is not None
        for index in range(3):
            front.send(wire.NUMBERS["SET_VRING_ENABLE"], PAIR.pack(index, 0))
        assert real.machine.device is None
        assert front.ask(wire.NUMBERS["GET_CONFIG"], wire.CONFIG.pack(0, 4, 0) + bytes(4)) == wire.CONFIG.pack(
            0, 4, 0
        ) + bytes(4)
        front.send(wire.NUMBERS["SET_CONFIG"], wire.CONFIG.pack(CONFIG_ACTUAL, 4, 0) + bytes(4))
        for index in range(3):
            front.send(wire.NUMBERS["SET_VRING_ENABLE"], PAIR.pack(index, 1))
        real.machine.device_add("other")
        assert real.device.live

    def test_a_driver_that_came_before_the_device_has_statistics_too(self, real: Real, path: str) -> None:
        """UML asks for the features once, when it boots: with only VERSION_1 offered it never had statistics."""
        real.machine.device_del("balloon0")
        real.machine.reset()
        with FrontEnd(real, path) as front:
            assert front.ask_number(wire.NUMBERS["GET_FEATURES"]) & FEATURES == FEATURES
            front.hello()
            front.lay_out(prime=[(FREE, 4711)])
            for index, role in enumerate((INFLATE, DEFLATE, STATS)):
                front.set_ring(index, front.queues[role], size=128)
            real.machine.device_add("late")
            assert real.sample == {FREE: 4711}

    def test_a_device_with_fewer_features_than_the_one_before_is_reported(self, path: str) -> None:
        """The front end is honest, but was cut off: UML keeps the features that it got at its boot."""
        with Real(f"vhost-user,path={path}", memory=16, deflate_on_oom=True) as real, FrontEnd(real, path) as front:
            features = FEATURES | bit(F_DEFLATE_ON_OOM)
            assert front.ask_number(wire.NUMBERS["GET_FEATURES"]) & features == features
            front.up(features)
            real.machine.device_del("balloon0")
            for index in range(3):
                front.send(wire.NUMBERS["SET_VRING_ENABLE"], PAIR.pack(index, 0))
            real.machine.device_add("lesser")
            real.machine.guest.booting = True
            request = real.machine.request_stats(10**10)
            front.send(wire.NUMBERS["SET_FEATURES"], struct.pack("<Q", features))
            for index in range(3):
                front.send(wire.NUMBERS["SET_VRING_ENABLE"], PAIR.pack(index, 1))
            assert not front.cut_off
            assert request.state == "unsupported"
            [told] = real.named("DRIVER_MISSING")
            assert "keeps using features" in told["why"]
            assert (real.device.refused, real.device.live) == ({}, False)
            front.send(wire.NUMBERS["SET_FEATURES"], struct.pack("<Q", features | 1 << 40))
            assert front.cut_off

    def test_before_the_vm_runs_no_front_end_may_connect(self, path: str) -> None:
        with Real(f"vhost-user,path={path}", memory=16, paused=True) as real, FrontEnd(real, path) as front:
            assert real.machine.wait_for()[0] == []
            front.send(wire.NUMBERS["GET_FEATURES"])
            real.machine.cont()
            front.serve()
            assert front.reply()[0] == wire.NUMBERS["GET_FEATURES"]

    def test_everything_is_given_back(self, path: str) -> None:
        before = open_descriptors()
        with Real(f"vhost-user,path={path}", memory=16) as real:
            for _ in range(3):
                with FrontEnd(real, path) as front:
                    front.up()
                real.turn(0.01)
        assert open_descriptors() == before
        assert not os.path.exists(path)

    def test_a_real_guest_with_a_simulated_clock_is_refused(self, path: str) -> None:
        with pytest.raises(MisuseError, match="runs in real time: --clock warp"):
            Machine(SimulatedClock(), ram=16 * MIB, guest=make_guest(f"vhost-user,path={path}"))
        assert not os.path.exists(path)

    def test_it_says_why_it_cannot_be_saved(self) -> None:
        assert "cannot be saved" in make_guest("vhost-user,path=x").snapshot_refusal
        assert "cannot be saved" in make_guest("uml").snapshot_refusal


def restart(front: FrontEnd, *indices: int, base: int | None = None) -> None:
    """Take rings out of service, all before the first comes back, as a front end does whose machine is stopped."""
    bases = [front.ask(wire.NUMBERS["GET_VRING_BASE"], PAIR.pack(index, 0)) for index in indices]
    for index, told in zip(indices, bases, strict=True):
        front.send(wire.NUMBERS["SET_VRING_BASE"], told if base is None else PAIR.pack(index, base))
        front.send(wire.NUMBERS["SET_VRING_KICK"], struct.pack("<Q", index), [front.kicks[index]])


def switch(front: FrontEnd, *indices: int) -> None:
    """Disable rings, then enable them."""
    for enabled in (0, 1):
        for index in indices:
            front.send(wire.NUMBERS["SET_VRING_ENABLE"], PAIR.pack(index, enabled))


PARKED: dict[str, Callable[[FrontEnd], None]] = {
    "a memory table": lambda front: front.send(wire.NUMBERS["SET_MEM_TABLE"], front.table(), [front.memfd]),
    "a stopped ring": lambda front: restart(front, 2),
    "a disabled ring": lambda front: switch(front, 2),
    "all rings stopped": lambda front: restart(front, 0, 1, 2),
    "all rings disabled": lambda front: switch(front, 2, 1, 0),
}


class TestASampleThatIsSeenAgain:
    """Its age counts from its first arrival: it does not fall without a new answer."""

    @pytest.mark.parametrize("asked", [False, True])
    @pytest.mark.parametrize("how", PARKED)
    def test_is_no_news(self, real: Real, front: FrontEnd, how: str, asked: bool) -> None:
        front.up(prime=[(FREE, 7)])
        if asked:
            request = real.machine.request_stats(10**10)
            assert front.queues[STATS].take() is not None
            front.fill([(FREE, 8)])
            front.kick(STATS)
            assert request.state == "answered"
        sample = real.device.stats.sample
        assert sample is not None
        when, came = (sample.collected, sample.wall), len(real.named("BALLOON"))
        PARKED[how](front)
        assert real.device.live
        assert real.sample == {FREE: 8 if asked else 7}
        assert real.device.stats.sample is sample
        assert real.device.stats.qom_sample is sample
        assert (sample.collected, sample.wall) == when
        assert len(real.named("BALLOON")) == came
        assert real.device.stats.held is not None
        request = real.machine.request_stats(10**10)
        assert front.queues[STATS].take() is not None
        front.fill([(FREE, 9)])
        front.kick(STATS)
        assert (request.state, real.sample) == ("answered", {FREE: 9})
        assert real.device.stats.sample is not sample
        assert real.device.refused == {}

    def test_answers_nobody_who_waits(self, real: Real, front: FrontEnd) -> None:
        front.up(prime=[(FREE, 7)])
        switch(front, 2)
        front.send(wire.NUMBERS["SET_VRING_ENABLE"], PAIR.pack(2, 0))
        request = real.machine.request_stats(10**10)
        front.send(wire.NUMBERS["SET_VRING_ENABLE"], PAIR.pack(2, 1))
        assert request.state == "pending"
        assert front.queues[STATS].take() is not None, "the guest is asked"
        front.fill([(FREE, 8)])
        front.kick(STATS)
        assert request.state == "answered"

    def test_is_news_if_its_content_is_another(self, real: Real, front: FrontEnd) -> None:
        front.up(prime=[(FREE, 7)])
        before = real.device.stats.sample
        front.send(wire.NUMBERS["SET_VRING_ENABLE"], PAIR.pack(2, 0))
        front.region.buffer[MIB + 2 : MIB + 3] = b"\x09"
        front.send(wire.NUMBERS["SET_VRING_ENABLE"], PAIR.pack(2, 1))
        assert before is not None
        assert real.sample == {FREE: 9}
        assert real.device.stats.sample is not before

    @pytest.mark.parametrize("how", ["set up while in use", "another base", "other features", "another device"])
    def test_is_news_from_another_driver(self, real: Real, front: FrontEnd, how: str) -> None:
        front.up(prime=[(FREE, 7)])
        before = real.device.stats.sample
        assert before is not None
        if how == "another base":
            real.machine.request_stats(10**10)
            front.queues[STATS].take()
            front.fill([(FREE, 7)])
            front.kick(STATS)
            before = real.device.stats.sample
            restart(front, 0, 1, 2, base=0)
        elif how == "another device":
            real.machine.device_del("balloon0")
            for index in range(3):
                front.send(wire.NUMBERS["SET_VRING_ENABLE"], PAIR.pack(index, 0))
            for index in range(3):
                front.send(wire.NUMBERS["SET_VRING_ENABLE"], PAIR.pack(index, 1))
            real.machine.device_add("other")
        else:
            front.send(wire.NUMBERS["SET_VRING_ENABLE"], PAIR.pack(2, 0))
            if how == "other features":
                for features in (FEATURES & ~bit(F_VERSION_1), FEATURES):
                    front.send(wire.NUMBERS["SET_FEATURES"], struct.pack("<Q", features))
            else:
                front.send(wire.NUMBERS["SET_VRING_BASE"], PAIR.pack(0, 0))
            front.lay_out(prime=[(FREE, 7)])
            for index, role in enumerate((INFLATE, DEFLATE, STATS)):
                front.set_ring(index, front.queues[role], size=128)
        assert real.sample == {FREE: 7}
        assert real.device.stats.sample is not before

    def test_is_news_from_another_front_end(self, real: Real, path: str) -> None:
        seen = []
        for _ in range(2):
            with FrontEnd(real, path) as front:
                front.up(prime=[(FREE, 7)])
                seen.append(real.device.stats.sample)
            real.turn(0.01)
        assert seen[0] is not seen[1]


class TestPath:
    """The socket's path: no other file is ever replaced."""

    def start(self, path: str) -> None:
        with Real(f"vhost-user,path={path}", memory=16):
            pass

    def test_a_file_is_left_alone(self, path: str) -> None:
        Path(path).write_text("precious")
        with pytest.raises(MisuseError, match="is not a socket; it is left alone"):
            self.start(path)
        assert Path(path).read_text() == "precious"

    def test_a_dead_socket_is_taken_over(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        self.start(path)
        assert not os.path.exists(path)

    def test_a_live_socket_is_left_alone(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as live:
            live.bind(path)
            live.listen(1)
            with pytest.raises(MisuseError, match="a live server uses it"):
                self.start(path)
            assert os.path.exists(path)

    def test_a_link_is_not_followed(self, path: str, tmp_path: Path) -> None:
        os.symlink(tmp_path / "elsewhere", path)
        with pytest.raises(MisuseError, match="not a socket"):
            self.start(path)

    @pytest.mark.parametrize(
        ("name", "words"),
        [("a b", "blanks"), ("a:b", "colons"), ("x" * 200, "path too long"), ("no/such/dir/s", "No such file")],
    )
    def test_paths_that_cannot_be_used_are_refused(self, tmp_path: Path, name: str, words: str) -> None:
        with pytest.raises(MisuseError, match=words):
            self.start(str(tmp_path / name))

    def test_a_file_put_in_its_place_meanwhile_stays(self, path: str) -> None:
        with Real(f"vhost-user,path={path}", memory=16):
            os.unlink(path)
            Path(path).write_text("new")
        assert Path(path).read_text() == "new"

    def test_only_its_owner_may_connect(self, path: str) -> None:
        with Real(f"vhost-user,path={path}", memory=16):
            assert os.stat(path).st_mode & 0o777 == 0o600

    def test_a_path_is_needed(self) -> None:
        with pytest.raises(MisuseError, match="needs a path"):
            make_guest("vhost-user")

    def test_a_machine_that_cannot_listen_leaves_the_old_guest_running(self, path: str) -> None:
        Path(path).write_text("precious")
        with Real("linux", memory=64) as real:
            guest = real.machine.guest
            with pytest.raises(MisuseError):
                real.machine.replace_guest(make_guest(f"vhost-user,path={path}"))
            assert real.machine.guest is guest
            assert real.ask()[0] == "answered"

    def test_a_guest_can_be_replaced_by_one_on_a_socket_and_back(self, path: str) -> None:
        with Real("linux", memory=16) as real:
            real.machine.replace_guest(make_guest(f"vhost-user,path={path}"))
            real.guest = real.machine.guest
            with FrontEnd(real, path) as front:
                front.up()
                real.machine.replace_guest(make_guest("linux"))
                assert front.cut_off
            assert real.ask()[0] == "answered"

    @pytest.mark.parametrize("spelled", ["{path}", "{directory}/./sock", "{directory}/../{name}/sock"])
    def test_a_guest_can_be_replaced_by_another_on_the_same_socket(
        self, path: str, tmp_path: Path, spelled: str
    ) -> None:
        """This was refused once, because a server listened there: the guest to be replaced."""
        again = spelled.format(path=path, directory=tmp_path, name=tmp_path.name)
        before = open_descriptors()
        with Real(f"vhost-user,path={path}", memory=16) as real:
            with FrontEnd(real, path) as front:
                front.up(prime=[(FREE, 7)])
                waiting = socket.socket(socket.AF_UNIX)
                waiting.connect(path)
                real.machine.replace_guest(make_guest(f"vhost-user,path={again}"))
                real.guest = real.machine.guest
                assert front.cut_off
                assert real.device.stats.sample is None
                assert real.guest.shown() == {"waiting for": f"a front end on {again}"}
            waiting.sendall(wire.HEADER.pack(wire.NUMBERS["GET_QUEUE_NUM"], wire.VERSION, 0))
            real.until(lambda: real.guest.shown() == {})
            real.turn(0.01)
            assert waiting.recv(100)[12:] == struct.pack("<Q", 5), "who waited in line is served by the new guest"
            waiting.close()
            real.until(real.guest.shown)
            with FrontEnd(real, path) as front:
                front.up(prime=[(FREE, 8)])
                assert real.sample == {FREE: 8}
        assert not os.path.exists(path)
        assert open_descriptors() == before

    def test_a_socket_that_somebody_else_put_there_is_not_taken_for_ours(self, path: str) -> None:
        with Real(f"vhost-user,path={path}", memory=16) as real:
            os.unlink(path)
            with socket.socket(socket.AF_UNIX) as live:
                live.bind(path)
                live.listen(1)
                guest = real.machine.guest
                with pytest.raises(MisuseError, match="a live server uses it"):
                    real.machine.replace_guest(make_guest(f"vhost-user,path={path}"))
                assert real.machine.guest is guest
