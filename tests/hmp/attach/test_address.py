"""What --attach reads of an address; the rest of it is read as any other address is."""

from __future__ import annotations

import pytest

from hmp.attach.address import Place
from hmp.monitor import UsageError


@pytest.mark.parametrize(
    ("spec", "host", "port", "hold"),
    [
        ("unix:a", "a", 0, None),
        ("unix:a,hold=on", "a", 0, True),
        ("unix:a,,b", "a,b", 0, None),
        ("unix:,,a,,,hold=off", ",a,", 0, False),
        ("tcp:localhost:7,hold=off", "localhost", 7, False),
        ("tcp::7", "localhost", 7, None),
    ],
)
def test_an_address_is_read_and_two_commas_in_a_path_are_one(
    spec: str, host: str, port: int, hold: bool | None
) -> None:
    place = Place(spec)
    assert (place.host, place.port, place.hold) == (host, port, hold)


@pytest.mark.parametrize("spec", ["unix:a\0b", "unix:a\0,hold=on", "unix:a,hold=\0"])
def test_nul_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match=r"NUL"):
        Place(spec)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("unix", "'unix' is not unix:PATH, tcp:HOST:PORT or libvirt:DOMAIN"),
        ("tcp", "'tcp' is not unix:PATH, tcp:HOST:PORT or libvirt:DOMAIN"),
        ("tcp:a..b:1", "'tcp:a..b:1': not a host name"),
    ],
)
def test_what_is_no_address_is_told_in_the_words_of_attach(spec: str, why: str) -> None:
    with pytest.raises(UsageError) as error:
        Place(spec)
    assert str(error.value) == f"--attach: {why}"
