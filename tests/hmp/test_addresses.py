"""What --monitor and --qmp take."""

from __future__ import annotations

import socket

import pytest

from hmp.addresses import UNIX_PATH_LIMIT, Address
from hmp.monitor import UsageError
from hmp.monitor.dialects import DIALECTS

READ = {
    "unix:m.sock": ("unix", "m.sock", 0),
    "unix:/run/a b/m": ("unix", "/run/a b/m", 0),
    "unix:with,,comma": ("unix", "with,comma", 0),
    "unix:with:colon": ("unix", "with:colon", 0),
    "unix:" + "x" * UNIX_PATH_LIMIT: ("unix", "x" * UNIX_PATH_LIMIT, 0),
    "tcp:127.0.0.1:0": ("tcp", "127.0.0.1", 0),
    "tcp:localhost:65535": ("tcp", "localhost", 65535),
    "tcp:[::1]:4444": ("tcp", "::1", 4444),
    "tcp:::1:4444": ("tcp", "::1", 4444),
    "tcp::4444": ("tcp", "", 4444),
    "telnet:localhost:23": ("telnet", "localhost", 23),
}


@pytest.mark.parametrize("spec", READ)
def test_an_address_is_read_to_these_values(spec: str) -> None:
    address = Address("monitor", spec)
    assert (address.scheme, address.host, address.port) == READ[spec]
    assert (address.kind, address.spec, address.wait, address.dialect) == ("monitor", spec, False, None)


WAITS = {
    "": False,
    ",server=on,wait=off": False,
    ",server,nowait": False,
    ",server": False,
    ",server=on": False,
    ",wait=on": True,
    ",wait": True,
    ",server,wait": True,
    ",server=yes,wait=true": True,
    ",wait=y,wait=n": False,
    ",wait=on,nowait": False,
    ",nowait,wait=on": True,
}


@pytest.mark.parametrize("options", WAITS)
@pytest.mark.parametrize("place", ["unix:m", "tcp:localhost:0"])
def test_qemus_trailing_options(place: str, options: str) -> None:
    assert Address("qmp", place + options).wait is WAITS[options]


FAMILIES = {
    "": (True, True),
    ",ipv4": (True, False),
    ",ipv6=on": (False, True),
    ",ipv4=off": (False, True),
    ",ipv6=off": (True, False),
    ",ipv4=on,ipv6=on": (True, True),
    ",nodelay,ipv4=on,nodelay=off": (True, False),
}


@pytest.mark.parametrize("options", FAMILIES)
def test_which_internet_protocols_may_serve(options: str) -> None:
    assert Address("monitor", f"telnet:localhost:0,server{options}").families == FAMILIES[options]


def test_a_name_in_the_abstract_namespace() -> None:
    address = Address("qmp", "unix:@vm1,abstract=on,tight=on")
    assert (address.host, address.abstract, address.loopback) == ("@vm1", True, True)
    assert not Address("qmp", "unix:@vm1").abstract


def test_a_path_need_not_be_utf_8_and_its_bytes_count() -> None:
    assert Address("qmp", "unix:\udcff" + "\u00e9" * 50).host == "\udcff" + "\u00e9" * 50
    with pytest.raises(UsageError, match="the path has 109 bytes"):
        Address("qmp", "unix:\udcff" + "\u00e9" * 54)


def test_a_place_that_we_connect_to() -> None:
    address = Address("qmp", "unix:m,server=off,reconnect=0.5")
    assert (address.server, address.reconnect, address.wait) == (False, 500_000_000, False)
    assert Address("qmp", "tcp:localhost:1,server=off,reconnect=0").reconnect is None
    assert Address("qmp", "unix:m").server


def test_stdin_and_stdout_and_an_open_socket() -> None:
    address = Address("qmp", "stdio,dialect=qemu")
    assert (address.scheme, address.server, address.dialect, address.loopback) == ("stdio", False, "qemu", True)
    with socket.socket(socket.AF_UNIX) as ours:
        assert Address("qmp", f"fd:{ours.fileno()}").port == ours.fileno()


@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect(name: str) -> None:
    address = Address("qmp", f"unix:m,server=on,dialect={name},wait=off")
    assert (address.dialect, address.host) == (name, "m")


WRONG = {
    "": "is not unix:PATH",
    "m.sock": "is not unix:PATH",
    "udp:localhost:1": "is not unix:PATH",
    "UNIX:m": "is not unix:PATH",
    "unix:": "a path is missing",
    "unix:,server": "a path is missing",
    "unix:" + "x" * (UNIX_PATH_LIMIT + 1): "the path has 108 bytes",
    "unix:" + "é" * 54: "the path has 108 bytes",
    "unix:a\0b": "cannot contain NUL",
    "tcp:": "a port from 0 to 65535",
    "tcp:localhost": "a port from 0 to 65535",
    "tcp:4444": "a port from 0 to 65535",
    "tcp:localhost:": "a port from 0 to 65535",
    "tcp:localhost:65536": "a port from 0 to 65535",
    "tcp:localhost:-1": "a port from 0 to 65535",
    "tcp:localhost:+1": "a port from 0 to 65535",
    "tcp:localhost:1x": "a port from 0 to 65535",
    "tcp:localhost:٤": "a port from 0 to 65535",
    "tcp:a..b:1": "not a host name",
    "tcp:\udcff:1": "not a host name",
    "tcp:localhost:000000": "a port from 0 to 65535",
    "unix:m,": "'' is not an option",
    "unix:m,x": "'x' is not an option",
    "unix:m,reconnect=1": "reconnect=SEC needs server=off",
    "unix:m,server=off,wait=off": "server=off has no client to wait for",
    "unix:m,server=off,reconnect=x": "reconnect: 'x' is not a number of seconds",
    "unix:m,server=off,reconnect=3601": "reconnect takes at most 3600 seconds",
    "unix:m,mux=on": "'mux=on' is not an option",
    "stdio:": "is not unix:PATH",
    "stdio,wait=on": "'wait=on' is not an option",
    "fd": "is not unix:PATH",
    "fd:": "the descriptor is not an open socket",
    "fd:x": "the descriptor is not an open socket",
    "fd:-1": "the descriptor is not an open socket",
    "fd:9999999": "the descriptor is not an open socket",
    "fd:99999999999999999999": "the descriptor is not an open socket",
    "unix:m,server=maybe": "'server=maybe' is not an option",
    "unix:m,wait=maybe": "'wait=maybe' is not an option",
    "unix:m,nowait=on": "'nowait=on' is not an option",
    "unix:m,ipv4=on": "'ipv4=on' is not an option (server=on|off, wait=on|off, abstract=on|off, tight=on|off, dialect=",
    "unix:m,nodelay": "'nodelay' is not an option",
    "tcp:localhost:1,abstract=on": "'abstract=on' is not an option",
    "tcp:localhost:1,nodelay=2": "'nodelay=2' is not an option",
    "tcp:localhost:1,ipv4=off,ipv6=off": "ipv4=off and ipv6=off leave no address family",
    "unix:m,dialect=": f"'' is not a dialect ({', '.join(DIALECTS)})",
    "unix:m,dialect=xen": f"'xen' is not a dialect ({', '.join(DIALECTS)})",
    "unix:m,dialect=\x1b[2J": r"'\x1b[2J' is not a dialect",
}


@pytest.mark.parametrize("kind", ["monitor", "qmp"])
@pytest.mark.parametrize("spec", WRONG)
def test_a_wrong_address_is_refused_in_one_line_that_names_option_and_value(kind: str, spec: str) -> None:
    with pytest.raises(UsageError) as caught:
        Address(kind, spec)
    text = str(caught.value)
    assert text.startswith(f"--{kind}: '")
    assert WRONG[spec] in text
    assert text.isprintable()


def test_telnet_is_for_people_only() -> None:
    with pytest.raises(UsageError) as caught:
        Address("qmp", "telnet:localhost:1")
    assert str(caught.value) == "--qmp: 'telnet:localhost:1' is not unix:PATH, tcp:HOST:PORT, fd:N or stdio"
    with pytest.raises(UsageError, match=r"or telnet:HOST:PORT$"):
        Address("monitor", "nosuch:x")


LOOPBACK = {
    "unix:/any/where": True,
    "tcp:localhost:1": True,
    "tcp:127.0.0.1:1": True,
    "tcp:127.255.0.9:1": True,
    "tcp:[::1]:1": True,
    "tcp::1": False,
    "tcp:0.0.0.0:1": False,
    "tcp:[::]:1": False,
    "tcp:10.0.0.1:1": False,
    "tcp:127.0.0.1.example.org:1": False,
    "tcp:127.0.0.256:1": False,
    "tcp:127.1:1": False,
    "tcp:localhost.example.org:1": False,
    "tcp:[::ffff:127.0.0.1]:1": False,
}


@pytest.mark.parametrize("spec", LOOPBACK)
def test_only_local_addresses_are_called_local(spec: str) -> None:
    assert Address("qmp", spec).loopback is LOOPBACK[spec]
