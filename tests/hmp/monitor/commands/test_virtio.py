"""`info virtio` and its relatives. The rings below were given to a real QEMU 7.2 over qtest; the expected texts are its replies."""

from __future__ import annotations

from struct import pack

import pytest

from device.balloon.spec import F_STATS_VQ
from device.errors import RULES
from device.virtio.spec import F_VERSION_1, STATUS_TABLE, bit
from hmp.monitor.monitor import Monitor
from tests.support.machines import device_of, monitor_on, run, say

PATH = "/machine/peripheral/balloon0/virtio-backend"
RING = 0x100000


def with_ring(*descriptors: tuple[int, int, int, int], heads: tuple[int, ...] = (0,)) -> Monitor:
    """A monitor on a machine whose queue 0 has these (address, length, flags, next) descriptors, not yet served."""
    subject = monitor_on("nodriver")
    memory = subject.machine.memory
    memory.write(RING, b"".join(pack("<QIHH", *each) for each in descriptors))
    memory.write(RING + 0x800, pack(f"<HH{len(heads)}H", 0, 1, *heads))
    device_of(subject).setup_queue(0, 128, RING, RING + 0x800, RING + 0x1000)
    return subject


def element(head: int, *descriptors: str) -> str:
    return (
        f"{PATH}:\n  device_name: virtio-balloon\n  index:   {head}\n  desc:\n    descs:\n"
        + ",\n".join(f"        {each}" for each in descriptors)
        + f"\n  avail:\n    flags: 0\n    idx:   1\n    ring:  {head}\n  used:\n    flags: 0\n    idx:   0\n"
    )


class TestPaths:
    @pytest.mark.parametrize(
        "path", ["/nosuch", "balloon0", "balloon0/virtio-backend", "virtio-backend", f"{PATH}/", "/machine"]
    )
    def test_only_the_whole_path_will_do_and_each_topic_has_words_of_its_own(self, path: str) -> None:
        subject = monitor_on()
        for line, words in (
            (f"info virtio-status {path}", "VirtIODevice"),
            (f"info virtio-queue-status {path} 0", "VirtIODevice"),
            (f"info virtio-queue-element {path} 0", "VirtIO device"),
        ):
            reply = run(subject, line)
            assert (reply.failed, reply.text) == (True, f"Error: Path {path} is not a {words}\n")

    def test_without_a_device_there_is_none(self) -> None:
        subject = monitor_on(balloon=False)
        assert say(subject, "info virtio") == "No VirtIO devices\n"
        assert say(subject, f"info virtio-status {PATH}") == f"Error: Path {PATH} is not a VirtIODevice\n"


class TestStatus:
    def test_before_a_driver_came(self) -> None:
        assert say(monitor_on("nodriver", paused=True), f"info virtio-status {PATH}") == (
            f"{PATH}:\n"
            "  device_name:             virtio-balloon \n"
            "  device_id:               5\n"
            "  vhost_started:           false\n"
            "  bus_name:                (null)\n"
            "  broken:                  false\n"
            "  disabled:                false\n"
            "  disable_legacy_check:    false\n"
            "  started:                 false\n"
            "  use_started:             true\n"
            "  start_on_kick:           false\n"
            "  use_guest_notifier_mask: true\n"
            "  vm_running:              false\n"
            "  num_vqs:                 3\n"
            "  queue_sel:               0\n"
            "  isr:                     0\n"
            "  endianness:              little\n"
            "  status:\n\n"
            "  Guest features:\n\n"
            "  Host features:\n"
            "\tVIRTIO_RING_F_EVENT_IDX: Used & avail. event fields enabled,\n"
            "\tVIRTIO_RING_F_INDIRECT_DESC: Indirect descriptors supported,\n"
            "\tVIRTIO_F_VERSION_1: Device compliant for v1 spec (legacy)\n"
            "\tVIRTIO_BALLOON_F_PAGE_POISON: Guest page poisoning enabled,\n"
            "\tVIRTIO_BALLOON_F_STATS_VQ: Guest memory stats VQ available\n"
            "  Backend features:\n\n"
        )

    def test_with_a_driver(self) -> None:
        text = say(monitor_on(), f"info virtio-status {PATH}")
        assert (
            "  status:\n"
            "\tVIRTIO_CONFIG_S_ACKNOWLEDGE: Valid virtio device found,\n"
            "\tVIRTIO_CONFIG_S_DRIVER: Guest OS compatible with device,\n"
            "\tVIRTIO_CONFIG_S_FEATURES_OK: Feature negotiation complete,\n"
            "\tVIRTIO_CONFIG_S_DRIVER_OK: Driver setup and ready\n"
            "  Guest features:\n"
            "\tVIRTIO_RING_F_EVENT_IDX: Used & avail. event fields enabled,\n"
            "\tVIRTIO_F_VERSION_1: Device compliant for v1 spec (legacy)\n"
            "\tVIRTIO_BALLOON_F_STATS_VQ: Guest memory stats VQ available\n"
        ) in text
        assert "  started:                 true\n" in text
        assert "  vm_running:              true\n" in text
        assert text.endswith("  Backend features:\n\n")

    def test_all_switches_on_list_from_the_last_bit_down(self) -> None:
        switches = {"deflate_on_oom": True, "free_page_reporting": True, "free_page_hint": True}
        text = say(monitor_on(switches=switches), f"info virtio-status {PATH}")
        names = [line.partition(":")[0].strip() for line in text.partition("Host features:\n")[2].splitlines()]
        assert [name.removeprefix("VIRTIO_BALLOON_F_") for name in names if "_BALLOON_" in name] == [
            "REPORTING", "PAGE_POISON", "FREE_PAGE_HINT", "DEFLATE_ON_OOM", "STATS_VQ",
        ]  # fmt: skip
        assert "  num_vqs:                 5\n" in text

    @pytest.mark.parametrize(("queue", "size"), [(0, 128), (1, 128), (2, 128), (3, 1024), (4, 32)])
    def test_each_queue_is_as_long_as_in_qemu(self, queue: int, size: int) -> None:
        switches = {"free_page_reporting": True, "free_page_hint": True}
        text = say(monitor_on(switches=switches), f"info virtio-queue-status {PATH} {queue}")
        assert f"    num:          {size}\n    num_default:  {size}\n" in text

    def test_status_words_come_in_qemus_order(self) -> None:
        names = [text.partition(":")[0].removeprefix("VIRTIO_CONFIG_S_") for _, text in STATUS_TABLE]
        assert names == ["ACKNOWLEDGE", "FAILED", "NEEDS_RESET", "DRIVER", "FEATURES_OK", "DRIVER_OK"]

    def test_refused_input_is_shown_with_how_often_and_the_last_reason(self) -> None:
        subject = monitor_on()
        device = device_of(subject)
        for _ in range(12):
            device.write_config(0, b"\1\0\0\0")
        device.notify(9)
        assert say(subject, f"info virtio-status {PATH}").partition("  Backend features:\n\n")[2] == (
            "  Refused:\n"
            f"    12 x {RULES['config-write']} (config-write)\n"
            f"     1 x {RULES['notify-dead']} (notify-dead)\n"
            "    last: notify-dead: queue 9 of 3\n"
        )

    def test_hints_of_free_pages_are_counted_by_command_id(self) -> None:
        subject = monitor_on(switches={"free_page_hint": True})
        device_of(subject).hints = {0: 1, 0x80000000: 1234}
        assert say(subject, f"info virtio-status {PATH}").partition("  Backend features:\n\n")[2] == (
            "  Free page hints:\n    command 0x0: 1 pages\n    command 0x80000000: 1234 pages\n"
        )

    def test_a_broken_device_says_so_until_it_is_reset(self) -> None:
        subject = monitor_on()
        device_of(subject).accept_features(bit(F_VERSION_1) | bit(F_STATS_VQ) | bit(40))
        text = say(subject, f"info virtio-status {PATH}")
        assert "  broken:                  true\n" in text
        assert "  started:                 true\n" in text
        assert "\tVIRTIO_CONFIG_S_NEEDS_RESET: Irrecoverable error, device needs reset,\n" in text
        assert RULES["features-late"] in text
        say(subject, "system_reset")
        text = say(subject, f"info virtio-status {PATH}")
        assert "  broken:                  false\n" in text
        assert RULES["features-late"] in text


class TestQueueStatus:
    def test_a_primed_statistics_queue(self) -> None:
        subject = monitor_on()
        queue = device_of(subject).queues[2]
        assert say(subject, f"info virtio-queue-status {PATH} 2") == (
            f"{PATH}:\n"
            "  device_name:          virtio-balloon\n"
            "  queue_index:          2\n"
            "  inuse:                1\n"
            "  used_idx:             0\n"
            "  signalled_used:       0\n"
            "  signalled_used_valid: false\n"
            "  last_avail_idx:       1\n"
            "  shadow_avail_idx:     1\n"
            "  VRing:\n"
            "    num:          128\n"
            "    num_default:  128\n"
            "    align:        4096\n"
            f"    desc:         0x{queue.desc:016x}\n"
            f"    avail:        0x{queue.avail:016x}\n"
            f"    used:         0x{queue.used:016x}\n"
        )

    def test_a_round_trip_moves_the_indices(self) -> None:
        subject = monitor_on()
        run(subject, "info balloon")
        text = say(subject, f"info virtio-queue-status {PATH} 2")
        assert "  used_idx:             1\n" in text
        assert "  last_avail_idx:       2\n" in text

    def test_buffers_that_were_not_taken_yet_show_in_the_shadow_index(self) -> None:
        text = say(with_ring((0x300000, 4, 0, 0)), f"info virtio-queue-status {PATH} 0")
        assert "  last_avail_idx:       0\n" in text
        assert "  shadow_avail_idx:     1\n" in text

    @pytest.mark.parametrize("topic", ["virtio-queue-status", "virtio-queue-element"])
    @pytest.mark.parametrize("number", [3, 7, 1023, 1024, 65535])
    def test_a_queue_that_is_not_there(self, topic: str, number: int) -> None:
        reply = run(monitor_on(), f"info {topic} {PATH} {number}")
        assert (reply.failed, reply.text) == (True, f"Error: Invalid virtqueue number {number}\n")

    def test_only_16_bits_of_the_number_count(self) -> None:
        subject = monitor_on()
        assert "  queue_index:          1\n" in say(subject, f"info virtio-queue-status {PATH} 65537")


class TestQueueElement:
    def test_without_rings_there_is_nothing_to_look_at(self) -> None:
        subject = monitor_on("nodriver")
        for index in ("", " 0", " 65536"):
            reply = run(subject, f"info virtio-queue-element {PATH} 2{index}")
            assert (reply.failed, reply.text) == (True, "Error: Region caches not initialized\n")

    def test_a_chain_is_listed_from_its_end(self) -> None:
        subject = with_ring((0x300000, 4, 1, 5), *[(0, 0, 0, 0)] * 4, (0x310000, 8, 0, 0))
        assert say(subject, f"info virtio-queue-element {PATH} 0") == element(
            0, "addr 0x310000 len 8", "addr 0x300000 len 4 (next)"
        )

    @pytest.mark.parametrize("index", ["1", "129", "65537"])
    def test_an_index_is_a_slot_of_the_ring(self, index: str) -> None:
        subject = with_ring((0x300000, 4, 0, 0), heads=(0, 3))
        assert say(subject, f"info virtio-queue-element {PATH} 0 {index}") == element(3, "addr 0x0 len 0")

    def test_a_writable_buffer_says_so(self) -> None:
        subject = with_ring((0x200000, 20, 2, 0))
        assert say(subject, f"info virtio-queue-element {PATH} 0") == element(0, "addr 0x200000 len 20 (write)")

    def test_a_loop_ends_with_the_size_of_the_queue(self) -> None:
        subject = with_ring((0x200000, 20, 3, 0))
        assert say(subject, f"info virtio-queue-element {PATH} 0") == element(
            0, *["addr 0x200000 len 20 (write, next)"] * 128
        )

    def test_a_chain_that_leaves_the_table_ends_there(self) -> None:
        subject = with_ring((0x200000, 20, 1, 500))
        assert say(subject, f"info virtio-queue-element {PATH} 0") == element(0, "addr 0x200000 len 20 (next)")

    def test_an_indirect_table_is_followed(self) -> None:
        subject = with_ring((0x400000, 32, 4, 0))
        subject.machine.memory.write(0x400000, pack("<QIHHQIHH", 0x500000, 7, 1, 1, 0x500100, 9, 2, 0))
        assert say(subject, f"info virtio-queue-element {PATH} 0") == element(
            0, "addr 0x500100 len 9 (write)", "addr 0x500000 len 7 (next)"
        )

    def test_an_indirect_table_outside_memory_reads_as_nothing(self) -> None:
        subject = with_ring((0xFFFF_FFFF_0000_0000, 0xFFFF_FFFF, 4, 0))
        assert say(subject, f"info virtio-queue-element {PATH} 0") == element(0, "addr 0x0 len 0")

    def test_flags_and_lengths_beyond_sense_are_shown_as_qemu_shows_them(self) -> None:
        subject = with_ring((0xFFFF_FFFF_0000_0000, 0xFFFF_FFFF, 0xFF80, 0))
        assert say(subject, f"info virtio-queue-element {PATH} 0") == element(
            0, "addr 0xffffffff00000000 len -1 (used, avail)"
        )

    def test_looking_changes_nothing(self) -> None:
        subject = monitor_on()
        before = say(subject, f"info virtio-queue-status {PATH} 2")
        say(subject, f"info virtio-queue-element {PATH} 2")
        assert say(subject, f"info virtio-queue-status {PATH} 2") == before
        assert ",age=" not in say(subject, "info balloon")
