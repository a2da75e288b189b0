"""Sizes, durations and shares: what people write, what it means, what is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.errors import MisuseError
from device.units import format_seconds, format_size, parse_seconds, parse_share, parse_size

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", MIB),
        ("512", 512 * MIB),
        ("0", 0),
        ("1.5", 3 * MIB // 2),
        (".5", MIB // 2),
        ("7B", 7),
        ("4k", 4096),
        ("4K", 4096),
        ("3M", 3 * MIB),
        ("1g", 1 << 30),
        ("1.5G", 3 << 29),
        ("16T", 16 << 40),
        ("0.25t", 1 << 38),
        ("007", 7 * MIB),
        ("1" * 30 + "B", int("1" * 30)),
    ],
)
def test_a_size_is_mebibytes_unless_a_suffix_says_otherwise(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "K",
        "1KB",
        "1 K",
        "-1",
        "+1",
        "1e3",
        "0x10",
        "1_0",
        "1.",
        ".",
        "..1",
        "1.2.3",
        "1,5",
        "x",
        "\u0661",
        "9" * 31,
        "1K\n",
    ],
)
def test_nonsense_is_no_size(text: str) -> None:
    with pytest.raises(MisuseError, match="is not a size") as caught:
        parse_size(text)
    assert repr(text)[1:-1] in repr(str(caught.value))


@pytest.mark.parametrize("text", ["0.5B", "1.0001K", "0.0000001M", "0.3"])
def test_a_size_is_a_whole_number_of_bytes(text: str) -> None:
    with pytest.raises(MisuseError, match="not a whole number of bytes"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("2", 2_000_000_000),
        ("0.25", 250_000_000),
        ("4.9", 4_900_000_000),
        ("0.0000000019", 1),
        ("3600", 3_600_000_000_000),
    ],
)
def test_seconds(text: str, ns: int) -> None:
    assert parse_seconds(text) == ns


@pytest.mark.parametrize("text", ["", "-1", "1s", "inf", "nan", "1e9", "1.", "\u00b2"])
def test_nonsense_is_no_duration(text: str) -> None:
    with pytest.raises(MisuseError, match="is not a number of seconds"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "share"),
    [("0", 0), ("1", 1_000_000), ("0.3", 300_000), ("1.0", 1_000_000), (".5", 500_000), ("0.1234567", 123_456)],
)
def test_shares(text: str, share: int) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize("text", ["", "1.1", "2", "-0.1", "30%", "1.0000001"])
def test_nonsense_is_no_share(text: str) -> None:
    with pytest.raises(MisuseError, match="is not a share from 0 to 1"):
        parse_share(text)


@given(
    st.text("0123456789.KMGTBkt -+ex_\u0663\u00b2\n", max_size=12),
    st.sampled_from([parse_size, parse_seconds, parse_share]),
)
def test_any_text_is_a_number_or_one_clear_error(text: str, parse: Callable[[str], int]) -> None:
    try:
        value = parse(text)
    except MisuseError as error:
        said = str(error)
    else:
        said = f"{text} is {value}" if value >= 0 else ""
    assert text in said


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1K"),
        (1536, "1.5K"),
        (MIB, "1M"),
        (512 * MIB, "512M"),
        (3 << 29, "1.5G"),
        (16 << 40, "16T"),
        ((1 << 30) - 1, "1024M"),
        (1014185984, "967.2M"),
        (MIB + MIB * 4 // 100, "1M"),
        (MIB + MIB * 6 // 100, "1.1M"),
    ],
)
def test_a_size_for_a_person(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("ns", "text"), [(0, "0"), (5_000_000_000, "5"), (100_000_000, "0.1"), (1, "0.000000001"), (2_500_000_000, "2.5")]
)
def test_seconds_for_a_person(ns: int, text: str) -> None:
    assert format_seconds(ns) == text


@given(st.integers(0, 10**15))
def test_a_printed_duration_reads_back(ns: int) -> None:
    assert parse_seconds(format_seconds(ns)) == ns
