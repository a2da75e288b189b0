"""Setting properties of the object tree; the words are those of a real QEMU 7.2 that was asked the same."""

from __future__ import annotations

import pytest

from hmp.monitor import CommandError, qom
from tests.support.machines import build, device_of, monitor_on, run, say, state_of

DEVICE = "/machine/peripheral/balloon0"
BACKEND = f"{DEVICE}/virtio-backend"
POLLING = "guest-stats-polling-interval"

TOO_LATE = "Attempt to set property '{}' on anonymous device (type 'virtio-balloon-device') after it was realized"


class TestSetting:
    @pytest.mark.parametrize(
        ("text", "value"),
        [("2", 2), ("+2", 2), ("010", 8), ("0x1F", 31), ("0X1f", 31), ("-0", 0), ("0", 0), ("4294967295", 2**32 - 1),
         ("000000000000000000000000000000000000000000000017", 15)],
    )  # fmt: skip
    def test_text_is_read_as_c_reads_numbers(self, text: str, value: int) -> None:
        subject = monitor_on("nodriver")
        assert say(subject, f"qom-set balloon0 {POLLING} {text}") == ""
        assert say(subject, f"qom-get {BACKEND} {POLLING}") == f"{value}\n"

    @pytest.mark.parametrize(
        "text",
        ["abc", "1.5", "2s", '"2"', "08", "1-3", "1,2", "0x", "0b1", "--3", "- 3", "+-3", "7 ", "7 8", "-", "1_0", "٣",
         "9223372036854775808", "-9223372036854775809", "18446744073709551615", "9" * 4000],
    )  # fmt: skip
    def test_text_that_is_no_64_bit_integer_is_refused(self, text: str) -> None:
        subject = monitor_on()
        before = state_of(subject.machine)
        assert say(subject, f"qom-set balloon0 {POLLING} {text}") == f"Error: Parameter '{POLLING}' expects int64\n"
        assert state_of(subject.machine) == before

    @pytest.mark.parametrize("json", ["", "-j "])
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("-1", "timer value must be greater than zero"),
            ("-9223372036854775808", "timer value must be greater than zero"),
            ("4294967296", "timer value is too big"),
            ("9223372036854775807", "timer value is too big"),
        ],
    )
    def test_intervals_out_of_range_are_refused_and_the_old_one_stays(self, json: str, text: str, words: str) -> None:
        subject = monitor_on()
        say(subject, f"qom-set balloon0 {POLLING} 3")
        reply = run(subject, f"qom-set {json}balloon0 {POLLING} {text}")
        assert (reply.failed, reply.text) == (True, f"Error: {words}\n")
        assert device_of(subject).stats.poll_interval == 3

    @pytest.mark.parametrize("value", ["2", 1.5, 2.0, True, None, [], {}, 2**63, -(2**63) - 1, 2**64 - 1, 1e30])
    def test_a_json_value_of_another_type_is_refused_in_qmps_words(self, value: object) -> None:
        machine = build()
        with pytest.raises(CommandError, match=r"Invalid parameter type for .*, expected: integer"):
            qom.qom_set(machine, DEVICE, POLLING, value)
        assert machine.device is not None
        assert machine.device.stats.poll_interval == 0

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("balloon0 guest-stats 5", "Property 'virtio-balloon-device.guest-stats' is not writable"),
            ("balloon0 type foo", "Property 'virtio-balloon-pci.type' is not writable"),
            (f"{BACKEND} type foo", "Property 'virtio-balloon-device.type' is not writable"),
            ("balloon0 hotplugged true", "Property 'virtio-balloon-pci.hotplugged' is not writable"),
            ("balloon0 hotpluggable x", "Property 'virtio-balloon-pci.hotpluggable' is not writable"),
            ("balloon0 virtio-backend on", "Property 'virtio-balloon-pci.virtio-backend' is not writable"),
            ("/ machine foo", "Property 'container.machine' is not writable"),
            ("/machine/peripheral balloon0 x", "Property 'container.balloon0' is not writable"),
            ("/ nosuch foo", "Property 'container.nosuch' not found"),
            ("/machine nosuch foo", "Property 'pc-i440fx-7.2-machine.nosuch' not found"),
            ("balloon0 nosuch abc", "Property 'virtio-balloon-pci.nosuch' not found"),
            (f"{BACKEND} nosuch abc", "Property 'virtio-balloon-device.nosuch' not found"),
            ('balloon0 "" 1', "Property 'virtio-balloon-pci.' not found"),
            ("balloon0 realized foo", "Parameter 'realized' expects 'on' or 'off'"),
            ("balloon0 realized ON", "Parameter 'realized' expects 'on' or 'off'"),
            ("-j balloon0 realized 1", "Invalid parameter type for 'realized', expected: boolean"),
            ("-j nosuch nosuch 1", "Device 'nosuch' not found"),
            *[
                (f"{where} {name} {value}", TOO_LATE.format(name))
                for where, name, value in [
                    ("balloon0", "free-page-reporting", "true"),
                    ("balloon0", "deflate-on-oom", "foo"),
                    (BACKEND, "page-poison", "on"),
                    ("-j balloon0", "free-page-hint", "1"),
                ]
            ],
        ],
    )
    def test_what_cannot_be_set_says_so_in_qemus_words(self, line: str, words: str) -> None:
        subject = monitor_on()
        before = state_of(subject.machine)
        reply = run(subject, f"qom-set {line}")
        assert (reply.failed, reply.text) == (True, f"Error: {words}\n")
        assert state_of(subject.machine) == before

    @pytest.mark.parametrize("word", ["on", "yes", "true", "y"])
    def test_realizing_a_realized_device_is_nothing(self, word: str) -> None:
        assert say(monitor_on(), f"qom-set balloon0 realized {word}") == ""

    @pytest.mark.parametrize("line", ["balloon0 realized off", "-j balloon0 realized false"])
    def test_a_device_in_use_cannot_be_unrealized(self, line: str) -> None:
        # QEMU accepts this, and aborts at the next `realized on`.
        subject = monitor_on()
        assert (
            say(subject, f"qom-set {line}") == "Error: A device that is in use cannot be unrealized: use device_del\n"
        )
        assert say(subject, "info virtio") != "No VirtIO devices\n"

    def test_enabling_polling_asks_the_guest_and_asks_again(self) -> None:
        subject = monitor_on()
        say(subject, f"qom-set balloon0 {POLLING} 2")
        run(subject, "sim sleep 2")
        first = device_of(subject).stats.sample
        run(subject, "sim sleep 2")
        assert first is not None
        assert device_of(subject).stats.sample is not first


class TestJson:
    @pytest.mark.parametrize("text", ["3", " 3 ", "\t3"])
    def test_a_number_is_taken_as_it_is(self, text: str) -> None:
        subject = monitor_on("nodriver")
        assert say(subject, f"qom-set -j balloon0 {POLLING} {text}") == ""
        assert device_of(subject).stats.poll_interval == 3

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("{", "premature EOI"),
            ("[1", "premature EOI"),
            ('{"a"', "premature EOI"),
            ("{1", "key is not a string in object"),
            ("[1 2", "expected separator in list"),
            ('{"a" 1', "missing : in object pair"),
            ("[tru", "invalid keyword 'tru'"),
            ("}", "expecting value"),
            ("[1,]", "expecting value"),
            ("02", "stray '02'"),
            ("@", "stray '@'"),
            ("-", "stray '-'"),
            ("1e", "stray '1e'"),
            ('"abc', "stray '\"abc'"),
            ('["abc', "stray '\"abc'"),
            ("abc", "invalid keyword 'abc'"),
        ],
    )
    def test_text_that_is_no_json_is_refused_in_qemus_words_before_the_path_is_looked_at(
        self, text: str, words: str
    ) -> None:
        assert say(monitor_on(), f"qom-set -j nosuch x {text}") == f"Error: JSON parse error, {words}\n"

    @pytest.mark.parametrize("text", ["2 3", "{} {}", "2@", "2x", "{} x", "null null", "2 {", '2 "', "2 2 @"])
    def test_more_than_one_value_is_refused(self, text: str) -> None:
        assert say(monitor_on(), f"qom-set -j nosuch x {text}") == "Error: Expecting at most one JSON value\n"

    def test_an_unknown_flag_is_refused(self) -> None:
        assert say(monitor_on(), f"qom-set -x balloon0 {POLLING} 2") == (
            'qom-set: unsupported option -x\nTry "help qom-set" for more information\n'
        )
