"""Completion: what can be typed next, from the table and the machine."""

from __future__ import annotations

import pytest

from device.balloon.spec import MODELS, STATS_TABLE
from device.clock import SimulatedClock
from device.guest.keys import KEYS, MODELLED_KEYS
from device.guest.table import PROFILES, make_guest
from device.machine.machine import Machine
from device.virtio.spec import MIB
from hmp.monitor import grammar
from hmp.monitor.completion import complete
from hmp.monitor.registry import INFO, SIM, TABLE, Command
from tests.support.machines import monitor


@pytest.fixture
def machine():
    machine = Machine(SimulatedClock(), ram=64 * MIB, guest=make_guest("linux"))
    yield machine
    machine.close()


class Kept:
    """A store that has snapshots of these tags."""

    def __init__(self, *tags: str) -> None:
        self.tags = lambda: list(tags)


def texts(machine: Machine, line: str, **more) -> list[str]:
    return [candidate.text for candidate in complete(machine, line, **more)]


def walk(table: dict[str, Command], before: str = ""):
    for name, command in table.items():
        yield before + name, command
        if command.topics is not None:
            yield from walk(command.topics, f"{before}{name} ")


class TestNames:
    def test_an_empty_line_offers_every_name_and_alias(self, machine):
        assert texts(machine, "") == list(TABLE)
        assert {"help", "?", "cont", "c", "sim"} <= set(texts(machine, "  "))

    def test_a_word_replaces_itself_only(self, machine):
        (candidate,) = complete(machine, "  info  stat")
        assert (candidate.text, candidate.start, candidate.help) == ("status", 8, "whether the VM runs")

    def test_topics(self, machine):
        assert texts(machine, "info ") == [command.name for command in INFO]
        assert texts(machine, "sim ") == [command.name for command in SIM]
        assert texts(machine, "sim dr") == ["driver", "drop"]

    def test_more_says_whether_arguments_follow(self, machine):
        assert {candidate.text: candidate.more for candidate in complete(machine, "s")} == {
            "savevm": True, "screendump": True, "sendkey": True, "stop": False, "s": False, "system_powerdown": False, "system_reset": False, "sim": True,
        }  # fmt: skip

    def test_every_command_completes_to_itself_with_a_description(self, machine):
        for path, command in walk(TABLE):
            found = [candidate for candidate in complete(machine, path) if path.endswith(candidate.text)]
            assert [candidate.help for candidate in found if candidate.text == path.split()[-1]] == [command.help]
            assert command.help

    @pytest.mark.parametrize("line", ["nonsense ", "info nonsense ", "info balloon ", "stop ", "info/", "INFO "])
    def test_a_line_that_is_complete_offers_nothing(self, machine, line):
        assert complete(machine, line) == []

    def test_help_offers_what_help_explains(self, machine):
        assert texts(machine, "help s") == texts(machine, "s")
        assert texts(machine, "? info st") == ["status"]
        assert texts(machine, "help sim d") == ["delay", "driver", "drop"]
        assert texts(machine, "help stop ") == []
        assert texts(machine, "help nonsense ") == []


class TestArguments:
    def test_every_completed_argument_of_the_table_has_candidates_with_help(self, machine):
        machine.guest.controls.pin(4, 7)
        machine.store = Kept("before")
        before = {"qom-get": "/machine", "qom-set": "/machine/peripheral/balloon0", "sim set": "free_mem"}
        for path, command in walk(TABLE):
            for place, kind in enumerate(command.complete):
                line = f"{path} {before[path] + ' ' if place else ''}"
                found = complete(machine, line, examples=True)
                assert found, f"{line!r} ({kind})"
                assert all(candidate.help and candidate.start == len(line) for candidate in found), line

    def test_stats(self, machine):
        assert texts(machine, "sim set ") == [stat.name for stat in STATS_TABLE]
        assert texts(machine, "sim set free") == ["free_mem"]
        assert texts(machine, "sim set free_mem ") == ["none"]
        assert texts(machine, "sim set free_mem none ") == []
        assert texts(machine, "sim set stat-free") == ["stat-free-memory"]

    def test_a_repeated_argument_is_offered_once(self, machine):
        assert texts(machine, "sim chart actual free_mem to") == ["total_mem"]
        assert "free_mem" not in texts(machine, "sim chart actual free_mem ")

    def test_fixed_words_are_offered(self, machine):
        assert texts(machine, "sim driver ") == ["load", "unload"]
        assert texts(machine, "sim driver u") == ["unload"]

    def test_guests_and_their_keys(self, machine):
        assert texts(machine, "sim guest ") == list(PROFILES)
        assert texts(machine, "sim guest linux,") == [f"{key}=" for key in MODELLED_KEYS]
        (candidate,) = complete(machine, "sim guest windows,delay=2,lo")
        assert (candidate.text, candidate.start, candidate.help) == ("loss=", 26, KEYS["loss"][1])
        assert "delay=" not in texts(machine, "sim guest windows,delay=2,")
        assert texts(machine, "sim guest nonsense,") == []
        assert texts(machine, "sim guest linux,delay=") == []

    @pytest.mark.parametrize(("guest", "key"), [(each.name, key) for each in PROFILES.values() for key in each.keys])
    def test_each_key_of_a_guest_offers_values_that_it_takes(self, machine: Machine, guest: str, key: str) -> None:
        values = texts(machine, f"sim guest {guest},{key}=", examples=True)
        if KEYS[key][1].startswith("PATH"):
            assert values == []
            return
        assert values
        for value in values:
            make_guest(f"{guest},{key}={value}" if guest != "vhost-user" else f"{guest},path=x,{key}={value}")
            assert texts(machine, f"sim guest {guest},{key}={value}", examples=True)[0] == value
        assert not texts(machine, f"sim guest {guest},nokey=", examples=True)

    def test_the_statistics_of_a_guest(self, machine):
        assert texts(machine, "sim guest linux,stats=") == ["none", *[stat.name for stat in STATS_TABLE]]
        (candidate,) = complete(machine, "sim guest linux,loss=1,stats=free_mem+tot")
        assert (candidate.text, candidate.start) == ("total_mem", 38)

    def test_devices(self, machine):
        assert texts(machine, "device_del ") == ["balloon0"]
        machine.device_del("balloon0")
        machine.start()
        machine.reset()
        assert machine.device is None
        assert texts(machine, "device_del ") == []
        assert texts(machine, "info virtio-status ") == []

    def test_drivers_and_their_properties(self, machine):
        assert texts(machine, "device_add ") == [*MODELS, "virtio-balloon"]
        assert texts(machine, "device_add virtio-balloon-pci,i") == ["id=", "iothread="]
        assert "id=" not in texts(machine, "device_add virtio-balloon-pci,id=x,")
        (candidate,) = complete(machine, "device_add virtio-balloon-pci,id=x,page-poison=on")
        assert (candidate.text, candidate.start) == ("on", 47)
        assert texts(machine, "device_add virtio-balloon-pci,id=o") == []

    def test_objects_and_their_properties(self, machine):
        backend = "/machine/peripheral/balloon0/virtio-backend"
        assert texts(machine, "info virtio-status ") == [backend]
        assert backend in texts(machine, "qom-list /machine/per")
        found = complete(machine, "qom-get /machine/peripheral/balloon0 guest-")
        assert {candidate.text for candidate in found} == {"guest-stats", "guest-stats-polling-interval"}
        assert texts(machine, "qom-set -j /machine/peripheral/balloon0 guest-") == ["guest-stats-polling-interval"]
        assert texts(machine, "qom-set -") == ["-j"]
        assert texts(machine, "qom-get /nowhere ") == []

    def test_snapshots(self, machine):
        assert texts(machine, "loadvm ") == []
        machine.store = Kept("before", "after")
        assert texts(machine, "loadvm ") == ["before", "after"]
        assert texts(machine, "delvm a") == ["after"]
        tags = ["a b", '"x', 'a "b', "b \\", "c\\d", 'e"f']
        machine.store = Kept(*tags)
        assert [grammar.string(text, 0) for text in texts(machine, "loadvm ")] == [
            (tag, len(text)) for tag, text in zip(tags, texts(machine, "loadvm "), strict=True)
        ]

    @pytest.mark.parametrize(
        "line",
        [
            'sim guest "',
            "qom-get\t/mach",
            "sim set \0",
            "balloon 5",
            "sim guest ,",
            "sim guest ,,=",
            "device_add ,=",
            "-",
            "/",
        ],
    )
    def test_odd_lines_are_harmless(self, machine, line):
        for candidate in complete(machine, line):
            assert candidate.start <= len(line)


class TestExamples:
    """Example numbers and sizes for a person to change: at the typed prompt only."""

    @pytest.mark.parametrize("line", ["balloon ", "sim alloc ", "sim free ", "sim delay ", "sim drop ", "sim sleep "])
    def test_numbers_and_sizes_are_offered_that_the_command_takes(self, machine, line):
        machine.start()
        assert texts(machine, line) == []
        offered = complete(machine, line, examples=True)
        assert len(offered) > 1
        assert all(each.help for each in offered)
        for each in offered:
            reply = monitor(machine).execute(line + each.text)
            assert not reply.failed, reply.text
            reply.cancel()

    def test_a_statistic_is_offered_as_it_is_now(self, machine):
        machine.start()
        assert texts(machine, "sim set free_mem ") == ["none"]
        offered = texts(machine, "sim set free_mem ", examples=True)
        assert offered[0] == str(machine.device.stats.sample.values[4])
        assert {"none", "32M"} <= set(offered)
        helps = {each.text: each.help for each in complete(machine, "sim set free_mem ", examples=True)}
        assert list(helps.items())[1:] == [
            ("4M", "a sixteenth of the guest's RAM"), ("16M", "a quarter of the guest's RAM"),
            ("32M", "half of the guest's RAM"), ("none", "report nothing for it")]  # fmt: skip
        assert complete(machine, "sim chart ", examples=True)[0].help == "the memory that the guest has"
        assert texts(machine, "sim set oom_kills ", examples=True) == ["0", "none"]
        assert texts(machine, "sim set nonsense ", examples=True) == ["none"]

    def test_only_what_is_pinned_can_be_released(self, machine):
        machine.start()
        assert texts(machine, "sim unset ") == []
        machine.guest.controls.pin(4, 7)
        machine.guest.controls.pin(42, None)
        assert texts(machine, "sim unset ") == ["free_mem", "42"]
