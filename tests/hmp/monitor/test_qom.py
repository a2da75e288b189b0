"""The object tree, as data and as text; the words are those of a real QEMU 7.2 that was asked the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from device.clock import SECOND, SIMULATED_EPOCH
from device.machine.machine import Machine
from hmp.monitor import CommandError, qom
from hmp.monitor.commands.qom import pretty
from tests.support.machines import build, device_of, monitor, monitor_on, run, say

DEVICE = "/machine/peripheral/balloon0"
BACKEND = f"{DEVICE}/virtio-backend"
POLLING = "guest-stats-polling-interval"

QEMU_STATS = (
    "stat-htlb-pgalloc", "stat-swap-out", "stat-available-memory", "stat-htlb-pgfail", "stat-free-memory",
    "stat-minor-faults", "stat-major-faults", "stat-total-memory", "stat-swap-in", "stat-disk-caches",
)  # fmt: skip


CPU = "/machine/unattached/device[0]"


def paths_of(machine: Machine) -> list[str]:
    return [node.path for node in qom.tree(machine).walk()]


class TestPaths:
    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            ("/", "container"),
            ("//", "container"),
            ("/machine", "pc-i440fx-7.2-machine"),
            ("machine", "pc-i440fx-7.2-machine"),
            ("//machine//", "pc-i440fx-7.2-machine"),
            ("/machine/peripheral", "container"),
            ("peripheral", "container"),
            ("/machine/peripheral-anon", "container"),
            ("unattached", "container"),
            ("/objects", "container"),
            ("chardevs", "container"),
            ("balloon0", "virtio-balloon-pci"),
            ("balloon0/", "virtio-balloon-pci"),
            ("peripheral//balloon0//", "virtio-balloon-pci"),
            (DEVICE, "virtio-balloon-pci"),
            (BACKEND, "virtio-balloon-device"),
            ("virtio-backend", "virtio-balloon-device"),
            ("peripheral/balloon0/virtio-backend", "virtio-balloon-device"),
        ],
    )
    def test_whole_and_partial_paths_lead_to_the_object(self, path: str, kind: str) -> None:
        assert qom.qom_get(build(), path, "type") == kind

    @pytest.mark.parametrize(
        "path",
        ["/nosuch", "nosuch", ".", "/balloon0", "/peripheral", "machine/balloon0", f"{BACKEND}/x", "balloon0/type",
         "BALLOON0", "balloon0 ", "container"],
    )  # fmt: skip
    def test_a_path_of_no_object_is_device_not_found(self, path: str) -> None:
        machine = build()
        for ask in (
            lambda: qom.qom_list(machine, path),
            lambda: qom.qom_get(machine, path, "type"),
            lambda: qom.qom_set(machine, path, "type", 1),
        ):
            with pytest.raises(CommandError) as caught:
                ask()
            assert (caught.value.desc, caught.value.kind) == (f"Device '{path}' not found", "DeviceNotFound")

    def test_an_empty_path_is_ambiguous_to_list_and_no_device_to_get(self) -> None:
        subject = monitor_on()
        assert say(subject, 'qom-list ""') == "Error: Path '' is ambiguous\n"
        assert say(subject, 'qom-get "" guest-stats') == "Error: Device '' not found\n"
        assert say(subject, 'qom-set "" guest-stats 1') == "Error: Device '' not found\n"

    def test_a_device_named_like_another_object_makes_the_partial_path_ambiguous(self) -> None:
        subject = monitor_on(device_id="machine")
        assert say(subject, "qom-list machine") == "Error: Path 'machine' is ambiguous\n"
        assert say(subject, "qom-get machine type") == "Error: Device 'machine' not found\n"
        assert say(subject, "qom-get /machine/peripheral/machine type") == '"virtio-balloon-pci"\n'

    def test_an_anonymous_device_is_among_the_anonymous(self) -> None:
        subject = monitor_on(balloon=False)
        say(subject, "device_add virtio-balloon-pci")
        assert say(subject, "qom-list /machine/peripheral") == "type (string)\n"
        assert say(subject, "qom-list peripheral-anon") == "type (string)\ndevice[0] (child<virtio-balloon-pci>)\n"
        assert say(subject, "info virtio") == "/machine/peripheral-anon/device[0]/virtio-backend [virtio-balloon]\n"
        assert say(subject, f"qom-get peripheral-anon/device[0] {POLLING}") == "0\n"

    def test_every_object_is_listed_once_and_can_be_listed(self) -> None:
        machine = build()
        paths = paths_of(machine)
        assert paths == [
            "/", "/objects", "/machine", "/machine/unattached", CPU, "/machine/peripheral-anon",
            "/machine/peripheral", DEVICE, BACKEND, "/chardevs",
        ]  # fmt: skip
        for path in paths:
            assert qom.qom_list(machine, path)[0] == {"name": "type", "type": "string"}

    def test_the_tree_follows_hot_plugging(self) -> None:
        subject = monitor_on()
        say(subject, "device_del balloon0")
        assert say(subject, f"qom-get {DEVICE} type") == f"Error: Device '{DEVICE}' not found\n"
        assert BACKEND not in paths_of(subject.machine)


class TestListing:
    def test_qom_list_without_a_path_says_where_the_tree_begins(self) -> None:
        assert say(monitor_on(), "qom-list") == "/\n"

    def test_the_root_lists_as_in_qemu(self) -> None:
        assert say(monitor_on(), "qom-list /") == (
            "type (string)\nobjects (child<container>)\nmachine (child<pc-i440fx-7.2-machine>)\n"
            "chardevs (child<container>)\n"
        )

    def test_the_device_lists_its_properties_in_qemus_order(self) -> None:
        assert say(monitor_on(), "qom-list balloon0").splitlines() == [
            "type (string)", "realized (bool)", "hotplugged (bool)", "hotpluggable (bool)",
            "free-page-reporting (bool)", "deflate-on-oom (bool)", "page-poison (bool)",
            "guest-stats-polling-interval (int)", "guest-stats (guest statistics)", "iothread (link<iothread>)",
            "free-page-hint (bool)",
            "virtio-backend (child<virtio-balloon-device>)",
        ]  # fmt: skip

    def test_the_backend_lists_its_properties_in_qemus_order(self) -> None:
        assert say(monitor_on(), f"qom-list {BACKEND}").splitlines() == [
            "type (string)", "realized (bool)", "hotplugged (bool)", "hotpluggable (bool)",
            "iothread (link<iothread>)", "deflate-on-oom (bool)",
            "free-page-hint (bool)", "page-poison (bool)", "free-page-reporting (bool)",
            "guest-stats-polling-interval (int)", "guest-stats (guest statistics)",
        ]  # fmt: skip

    def test_every_listed_property_can_be_read(self) -> None:
        machine = build()
        for path in paths_of(machine):
            for each in qom.qom_list(machine, path) if path != CPU else ():
                value = qom.qom_get(machine, path, each["name"])
                kinds: dict[str, type] = {"bool": bool, "int": int, "guest statistics": dict}
                assert type(value) is kinds.get(each["type"], str)

    def test_the_processor_is_there_for_who_looks_what_it_can_do(self) -> None:
        machine = build()
        assert qom.qom_get(machine, CPU, "type") == "qemu64-x86_64-cpu"
        assert qom.qom_get(machine, CPU, "unavailable-features") == []
        assert qom.qom_get(machine, CPU, "sse2") is True
        for each in qom.qom_list(machine, CPU):
            qom.qom_get(machine, CPU, each["name"])
        assert say(monitor_on(), f"qom-get {CPU} unavailable-features") == "[]\n"
        assert say(monitor_on(), f"qom-set {CPU} sse2 off").endswith("is not writable\n")

    def test_a_child_reads_as_its_path(self) -> None:
        assert say(monitor_on(), "qom-get balloon0 virtio-backend") == f'"{BACKEND}"\n'
        assert say(monitor_on(), "qom-get / machine") == '"/machine"\n'

    def test_completion_is_offered_names_and_types_and_only_what_can_still_be_set(self) -> None:
        machine = build()
        assert ("guest-stats", "guest statistics") in qom.property_names(machine, "balloon0")
        assert qom.property_names(machine, "balloon0", writable_only=True) == [("realized", "bool"), (POLLING, "int")]
        assert qom.property_names(machine, "/nosuch") == []
        assert qom.property_names(machine, "") == []


class TestValues:
    def test_switches_read_as_they_were_given(self) -> None:
        subject = monitor_on(switches={"deflate_on_oom": True, "page_poison": False})
        assert say(subject, "qom-get balloon0 deflate-on-oom") == "true\n"
        assert say(subject, f"qom-get {BACKEND} page-poison") == "false\n"
        assert say(subject, "qom-get balloon0 free-page-hint") == "false\n"

    def test_a_device_of_the_command_line_was_not_hotplugged_one_of_device_add_was(self) -> None:
        assert say(monitor_on(), "qom-get balloon0 hotplugged") == "false\n"
        subject = monitor_on(balloon=False)
        say(subject, "device_add virtio-balloon-pci,id=b1")
        assert say(subject, "qom-get b1 hotplugged") == "true\n"
        assert say(subject, "qom-get b1/virtio-backend hotplugged") == "true\n"

    def test_statistics_of_a_guest_that_never_reported_are_all_absent(self) -> None:
        found = qom.qom_get(build("nodriver"), "balloon0", "guest-stats")
        assert found == {"stats": dict.fromkeys(QEMU_STATS, 2**64 - 1), "last-update": 0}
        assert isinstance(found, dict)
        assert tuple(found["stats"]) == QEMU_STATS

    def test_statistics_are_the_last_sample_with_the_wall_clock_of_its_arrival(self) -> None:
        subject = monitor_on("partial")
        run(subject, "sim sleep 7.9")
        run(subject, "info balloon")
        run(subject, "sim sleep 5")
        sample = device_of(subject).stats.sample
        assert sample is not None
        found = qom.qom_get(subject.machine, "balloon0", "guest-stats")
        assert isinstance(found, dict)
        assert found["last-update"] == SIMULATED_EPOCH // SECOND + 7
        assert found["stats"]["stat-free-memory"] == sample.values[4]
        assert found["stats"]["stat-swap-in"] == 2**64 - 1

    def test_values_are_printed_as_qemu_prints_json(self) -> None:
        assert pretty(True) == "true"
        assert pretty(-5) == "-5"
        assert pretty({}) == "{}"
        assert pretty('a"b\\c\n\x01\x7f') == '"a\\"b\\\\c\\n\\u0001\\u007F"'
        assert pretty({"a": {"b": 1, "c": False}, "d": "x"}) == (
            '{\n    "a": {\n        "b": 1,\n        "c": false\n    },\n    "d": "x"\n}'
        )


def test_two_monitors_see_one_tree() -> None:
    machine = build("nodriver")
    one, other = monitor(machine), monitor(machine, "qemu")
    say(one, f"qom-set balloon0 {POLLING} 9")
    assert say(other, f"qom-get balloon0 {POLLING}") == "9\n"


def test_the_commands_of_a_script_cost_no_large_module() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r})\n"
        "import hmp.monitor.commands.qom, hmp.monitor.commands.virtio, hmp.monitor.commands.sim, hmp.monitor.commands.chart\n"
        "heavy = {'re', 'json', 'typing', 'enum', 'dataclasses', 'collections', 'inspect', 'asyncio', 'importlib.util'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
