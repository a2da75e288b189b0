"""The table of guests: each behaves as its line says, keys compose, and bad specs say what is wrong."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.balloon.spec import F_STATS_VQ, STAT_COUNT, STATS_TABLE
from device.clock import SECOND
from device.errors import MisuseError
from device.guest.keys import KEYS, MODELLED_KEYS
from device.guest.model.guest import ModelledGuest
from device.guest.model.host import read_host_statistics
from device.guest.table import PROFILES, make_guest
from device.virtio.spec import MIB, bit
from tests.support.rig import Modelled

SIX = (0, 1, 2, 3, 4, 5)
TEN = (0, 1, 2, 3, 8, 9, 4, 5, 6, 7)
SIXTEEN = (0, 1, 2, 3, 10, 11, 12, 13, 14, 15, 8, 9, 4, 5, 6, 7)


@pytest.mark.parametrize(
    ("spec", "tags"),
    [
        ("linux", TEN),
        ("linux-2.6.34", SIX),
        ("linux-6.12", SIXTEEN),
        ("flaky,loss=0", TEN),
        ("slow,delay=0", TEN),
        ("hung", TEN),
        ("partial", (4, 5)),
        ("linux,stats=total_mem+free_mem", (4, 5)),
        ("linux,stats=free_mem", (4,)),
        ("linux-2.6.34,stats=oom_kills+free_mem", (4, 10)),
        ("linux,stats=stat-free-memory+5+free_mem", (4, 5)),
        ("empty", ()),
        ("linux,stats=none", ()),
    ],
)
def test_a_guest_sends_its_statistics_in_its_kernels_order(spec: str, tags: tuple[int, ...]) -> None:
    with Modelled(spec) as m:
        assert m.info() == "answered"
        assert m.stats.sample.tags == tags
        assert (m.age, m.clock.now(), m.device.refused) == (0, 0, {})


def test_an_unknown_tag_may_be_chosen() -> None:
    with Modelled("linux,stats=free_mem+40") as m:
        assert (m.stats.sample.tags, m.stats.sample.unknown) == ((4,), {40: 0})


def test_nostats_never_negotiates_the_queue_and_still_balloons() -> None:
    with Modelled("nostats") as m:
        assert not m.device.features & bit(F_STATS_VQ)
        assert m.info() == "unsupported"
        m.machine.set_balloon(256 * MIB)
        m.advance(1)
        assert (m.device.actual, m.device.refused) == (256 * MIB, {})


def test_nodriver_has_none() -> None:
    with Modelled("nodriver") as m:
        assert not m.guest.driver_loaded
        assert m.info() == "unsupported"
        m.machine.set_balloon(256 * MIB)
        m.advance(10)
        assert m.device.actual == 512 * MIB
        m.guest.controls.load_driver()
        m.advance(1)
        assert (m.device.actual, m.info()) == (256 * MIB, "answered"), (
            "a target without a driver is applied when it loads"
        )


def test_silent_negotiates_and_never_puts_a_buffer() -> None:
    with Modelled("silent") as m:
        assert m.device.features & bit(F_STATS_VQ)
        assert (m.info(), m.age, m.stats.sample, m.stats.held) == ("timed out", 5, None, None)
        m.machine.set_balloon(256 * MIB)
        m.advance(1)
        assert m.device.actual == 256 * MIB


def test_hung_answers_the_first_request_and_then_nothing() -> None:
    with Modelled("hung") as m:
        assert [m.info() for _ in range(3)] == ["answered", "timed out", "timed out"]
        assert m.age == 10


@pytest.mark.parametrize("answers", [0, 1, 3])
def test_answers_may_be_counted(answers: int) -> None:
    with Modelled(f"linux,answers={answers}") as m:
        assert [m.info() for _ in range(answers + 2)] == ["answered"] * answers + ["timed out"] * 2


def test_slow_answers_two_seconds_later() -> None:
    with Modelled("slow") as m:
        for turn in (2, 4):
            assert m.info() == "answered"
            assert (m.clock.now(), m.age) == (turn * 1_000_000_000, 0)


def test_flaky_misses_about_three_of_ten() -> None:
    with Modelled("flaky") as m:
        ends = [m.info() for _ in range(400)]
        assert set(ends) == {"answered", "timed out"}
        assert 80 < ends.count("timed out") < 160


@pytest.mark.parametrize(("loss", "end"), [("1", "timed out"), ("0", "answered")])
def test_loss_from_none_to_all(loss: str, end: str) -> None:
    with Modelled(f"linux,loss={loss}") as m:
        assert {m.info() for _ in range(20)} == {end}


def test_faults_can_be_combined() -> None:
    """windows,delay=2,loss=0.1: the service, then the delay, now and then a lost notification."""
    with Modelled("windows,delay=2,loss=0.5", seed=3) as m:
        m.advance(20)
        ends = []
        for _ in range(40):
            before = m.clock.now()
            ends.append(m.info())
            took = m.clock.now() - before
            assert took == (2_000_000_000 if ends[-1] == "answered" else 5_000_000_000)
        assert 5 < ends.count("timed out") < 35
        assert m.stats.sample.tags == tuple(range(10))


def test_the_host_guest_reports_every_statistic_that_this_machine_has() -> None:
    with Modelled("host") as m:
        assert m.info() == "answered"
        sample = m.stats.sample
        assert sample is not None
        assert set(sample.values) == set(read_host_statistics())
        assert [tag for tag in (*SIXTEEN, *range(16, STAT_COUNT)) if tag in sample.values] == list(sample.tags)


def test_the_host_guest_mirrors_this_machine() -> None:
    with Modelled("host") as m:
        first = m.stats.sample.values
        assert m.info() == "answered"
        again = m.stats.sample.values
        assert again[5] == first[5] > 0
        assert again[3] >= first[3]
        m.machine.set_balloon(256 * MIB)
        m.advance(1)
        assert m.device.actual == 256 * MIB
        assert m.info() == "answered"
        assert m.stats.sample.values[5] == first[5], "only actual follows the balloon"
        assert m.guest.memory_free() > 0


@pytest.mark.parametrize("name", [name for name, profile in PROFILES.items() if "delay" in profile.keys])
def test_every_modelled_guest_takes_every_key(name: str) -> None:
    guest = make_guest(f"{name},delay=0.5,loss=0.25,stats=free_mem,answers=7,pace=1G")
    assert isinstance(guest, ModelledGuest)
    assert guest.pace == 1 << 30
    values = [guest.faults[name].value for name in ("delay", "loss", "stats", "answers")]
    assert values == [500_000_000, 250_000, (4,), 7]
    assert (guest.name, guest.spec.split(",")[0]) == (name, name)
    assert PROFILES[name].help


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "no guest is called ''"),
        ("linus", "no guest is called 'linus'"),
        ("Linux", "no guest is called 'Linux'"),
        ("linux,", "guest linux has no key ''"),
        ("linux,speed=3", "guest linux has no key 'speed' (takes " + ", ".join(MODELLED_KEYS) + ")"),
        ("linux,delay", "guest linux: delay needs a value"),
        ("linux,delay=", "guest linux: delay needs a value"),
        ("linux,delay=x", "guest linux: delay: 'x' is not a number of seconds"),
        ("linux,delay=-1", "guest linux: delay: '-1' is not a number of seconds"),
        ("linux,delay=3600.1", "guest linux: delay: '3600.1' is more than 3600 seconds"),
        ("linux,delay=1,delay=2", "guest linux: delay is given twice"),
        ("linux,loss=1.5", "guest linux: loss: '1.5' is not a share from 0 to 1"),
        ("linux,stats=free", "guest linux: stats: 'free' is not a statistic"),
        ("linux,stats=free_mem+", "guest linux: stats: '' is not a statistic"),
        ("linux,stats=70000", "guest linux: stats: '70000' is not a statistic"),
        ("linux,answers=-1", "guest linux: answers: '-1' is not a number of answers"),
        ("linux,answers=1000000000", "is not a number of answers"),
        ("linux,answers=\u0663", "is not a number of answers"),
        ("linux,pace=1B", "guest linux: pace: '1B' is not a pace from 4K"),
        ("linux,pace=2000T", "guest linux: pace: '2000T' is not a pace"),
        ("linux,pace=fast", "guest linux: pace: 'fast' is not a size"),
        ("nodriver,delay=1=2", "guest nodriver: delay: '1=2' is not a number of seconds"),
    ],
)
def test_a_bad_spec_gives_one_error_that_names_what(spec: str, words: str) -> None:
    with pytest.raises(MisuseError) as caught:
        make_guest(spec)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    st.lists(
        st.sampled_from(["linux", ",", "=", "delay", "loss", "stats", "none", "+", "1", "0.5", "free_mem", "x"]),
        max_size=8,
    )
)
def test_any_spec_makes_a_guest_or_one_error(words: list[str]) -> None:
    spec = "linux," + "".join(words)
    try:
        assert make_guest(spec).spec == spec
    except MisuseError as error:
        told = str(error)
    else:
        told = "guest"
    assert "guest" in told


def test_every_key_is_explained() -> None:
    assert set(KEYS) == {key for profile in PROFILES.values() for key in profile.keys}
    assert all(text for _, text in KEYS.values())


class TestTable:
    def test_it_imports_no_guest_before_one_is_made(self) -> None:
        program = (
            "import sys, device.guest.table; print(*[name for name in sys.modules if name.startswith('device.guest.')])"
        )
        found = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.split()
        assert found == ["device.guest.table"]

    def test_what_a_guest_is_comes_from_its_row(self) -> None:
        for name, profile in PROFILES.items():
            assert profile.name == name
            assert 10 < len(profile.help) < 90
        guest = make_guest("linux,pace=4K,delay=0.5")
        assert (guest.name, guest.spec) == ("linux", "linux,pace=4K,delay=0.5")
        usual: Any = make_guest("linux")
        assert (usual.pace, *[usual.faults[name].value for name in ("delay", "loss", "answers")]) == (2 << 30, 0, 0, -1)
        assert (*[usual.faults[name].value for name in ("hang", "panic", "drop")], usual.boots) == (False, False, 0, 0)

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ("linux,pace=4095B", "guest linux: pace: '4095B' is not a pace from 4K to 1024T a second"),
            ("linux,pace=1025T", "guest linux: pace: '1025T' is not a pace from 4K to 1024T a second"),
            ("linux,delay=3601", "guest linux: delay: '3601' is more than 3600 seconds"),
            ("linux,delay", "guest linux: delay needs a value (SEC: answer that much later)"),
            ("linux,delay=", "guest linux: delay needs a value (SEC: answer that much later)"),
            ("linux,delay=1,delay=1", "guest linux: delay is given twice"),
            ("linux,answers=1234567890", "guest linux: answers: '1234567890' is not a number of answers"),
            ("linux,answers=-1", "guest linux: answers: '-1' is not a number of answers"),
            (
                "linux,stats=x",
                "guest linux: stats: 'x' is not a statistic (one of "
                + ", ".join(stat.name for stat in STATS_TABLE)
                + ")",
            ),
            ("linux,x=1", "guest linux has no key 'x' (takes " + ", ".join(MODELLED_KEYS) + ")"),
            ("hostile,seed=12345678901234567890", "'12345678901234567890' is not a whole number below 10^19"),
            ("vhost-user,path=a\0b", "guest vhost-user: path: a path has no zero byte"),
        ],
    )
    def test_what_is_wrong_with_a_spec(self, spec: str, words: str) -> None:
        with pytest.raises(MisuseError) as caught:
            make_guest(spec)
        assert str(caught.value).endswith(words)

    def test_the_ends_of_what_a_key_takes(self) -> None:
        guest: Any = make_guest("hostile,pace=4K,delay=3600,answers=999999999,loss=1,seed=9999999999999999999")
        values = [guest.faults[name].value for name in ("delay", "answers", "loss")]
        assert (guest.pace, values) == (4096, [3600 * SECOND, 999_999_999, 1_000_000])
        assert make_guest("linux,pace=1024T").pace == 1 << 50  # type: ignore[attr-defined]
        chosen: Any = make_guest("linux,stats=free_mem+free_mem+mem_swapped_in")
        assert chosen.faults["stats"].value == (4, 0)
