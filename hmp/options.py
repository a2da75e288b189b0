"""The command line of hmp, read with click. Every error is one line that names the option and the value."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from typing import Any

import click

from device.clock import SECOND
from device.errors import MisuseError
from device.guest.keys import KEYS, MODELLED_KEYS
from device.guest.table import PROFILES, make_guest
from device.units import format_size, parse_count, parse_seconds, parse_size
from device.virtio.memory import check_ram_size
from hmp.addresses import Address
from hmp.attach.address import KNOWN, Place
from hmp.attach.address import check_options as check_attach
from hmp.command_line import FILE, choice, program, read_arguments, switch, value
from hmp.config import CLOCKS, DEFAULT_DEVICE, DEFAULT_GUEST, DEFAULT_RAM, NUMBER, Config
from hmp.monitor import CommandError, UsageError, escape
from hmp.monitor.commands.machine import check_driver, check_iothread, split_device
from hmp.monitor.commands.qom import read_json
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.emulated import version
from hmp.monitor.qom import from_json, from_option, read_options, valid_id
from hmp.qemu.table import OURS, WITH_VALUE, WITHOUT
from hmp.recording.record import check_options, read_terminal_size

MIN_TIMEOUT, MAX_TIMEOUT = SECOND // 10, 3600 * SECOND

EPILOG = "Sizes are MiB or take K, M, G, T. Commands: type 'help' at the prompt. Guests: --list-guests."


def _memory(text: str) -> int:
    return check_ram_size(parse_size(text))


def _timeout(text: str) -> int:
    timeout = parse_seconds(text)
    if not MIN_TIMEOUT <= timeout <= MAX_TIMEOUT:
        raise MisuseError(f"'{text}' is not between 0.1 and 3600 seconds")
    return timeout


def _seed(text: str) -> int:
    return parse_count(text, (1 << 63) - 1, "a whole number from 0 to 2^63-1")


def _count(text: str) -> int:
    return parse_count(text, 99_999, "a number of machines from 1 to 99999", low=1)


def _guest(text: str) -> str:
    make_guest(text).close()  # this raises for what is wrong in it
    return text


def _device(text: str) -> tuple[str, str, dict[str, Any]]:
    """Return (the text, id, options) of a device, from `driver,key=value` or JSON."""
    try:
        if text.startswith("{"):
            pairs = read_json(text)
            driver, id = pairs.pop("driver", None), pairs.pop("id", None)
            id = id if isinstance(id, str) else None
            # QEMU does not check an id in JSON, so it may begin with any character.
            named = not id or valid_id(f"x{id}")
            options = read_options(check_driver(driver), pairs.items(), from_json)
        else:
            driver, id, pairs = split_device(text)
            named = id is None or valid_id(id)
            options = read_options(check_driver(driver), pairs, from_option)
        check_iothread(options)
    except CommandError as error:
        raise MisuseError(error.desc) from None
    if not named:
        raise MisuseError(f"'{id}' is not a device id (a letter, then letters, digits, '-', '.', '_')")
    return text, id or "", options


def _only_device(devices: Sequence[tuple[str, str, dict[str, Any]]]) -> tuple[str, dict[str, Any]]:
    """Return id and options of the one device.

    Raises UsageError for several devices, with the error that QEMU reports first.
    """
    # QEMU makes the devices in JSON last.
    (_, id, options), *others = sorted(devices, key=lambda device: device[0].startswith("{"))
    for text, other, _ in others:
        words = "Only one balloon device is supported"
        if id and other == id:
            words = f"Duplicate device ID '{id}'" if text.startswith("{") else f"Duplicate ID '{id}' for device"
        raise UsageError(f"--device '{text}': {words}")
    return id, options


def _uuid(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        raise MisuseError(f"'{text}' is not a UUID (xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx)")
    return text.lower()


def _directory(text: str) -> str:
    # Imported here, because json and hashlib come with it.
    from hmp.monitor.snapshots import DirectoryStore

    if NUMBER not in text:  # else there is a directory for each machine
        DirectoryStore(text)  # this raises if it cannot be used
    return text


def _list_guests(context: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        click.echo(guest_table(), nl=False)
        context.exit()


def guest_table() -> str:
    """Return the text of --list-guests."""
    from device.guest.hostile.attacks import ATTACKS

    def listed(heading: str, rows: dict[str, str], width: int) -> str:
        return heading + "".join([f"{name:{width}}  {help}\n" for name, help in rows.items()])

    def keys(names: Iterable[str]) -> dict[str, str]:
        return {key: KEYS[key][1] for key in names}

    width = max(map(len, PROFILES))
    text = listed("", {name: profile.help for name, profile in PROFILES.items()}, width)
    text += listed("\nkeys of every modelled guest, as NAME,key=value:\n", keys(MODELLED_KEYS), width)
    for name, profile in PROFILES.items():
        if own := keys(key for key in profile.keys if key not in MODELLED_KEYS):
            text += listed(f"\nkeys of {name}:\n", own, width)
    attacks = {rule: help for rule, (_, help) in ATTACKS.items()}
    return text + listed("\nrules that hostile breaks:\n", attacks, max(map(len, attacks)))


OPTIONS: list[click.Parameter] = [
    click.Argument(["script"], nargs=-1, type=FILE, metavar="[SCRIPT]..."),
    value(["-m", "--memory"], "SIZE", _memory, "RAM of the guest; 1G unless the guest has mem=."),
    value(["--guest"], "NAME[,key=value...]", _guest, "The guest that uses the device.", DEFAULT_GUEST,
          offers={each.name: each.help for each in PROFILES.values()}),
    value(["--timeout"], "SEC", _timeout, "How long info balloon waits.", "5"),
    choice("--clock", {name: help for name, (_, help) in CLOCKS.items()}, "real"),
    value(["--seed"], "N", _seed, "Seed of everything random.", "0"),
    switch(["-S", "--paused"], "Start with the VM stopped."),
    value(["--device"], "SPEC", _device, "The balloon device, as key=value or as JSON.", DEFAULT_DEVICE, multiple=True),
    switch(["--no-balloon"], "Make a machine without a balloon device."),
    click.Option(["--name"], metavar="TEXT", help="The name that info name prints."),
    value(["--uuid"], "UUID", _uuid, "The UUID that info uuid prints."),
    choice("--dialect", {each.name: each.help for each in DIALECTS.values()}, "seed"),
    click.Option(["-c", "--command"], multiple=True, metavar="CMD", help="Run one command; repeatable."),
    switch(["-e", "--exit-on-error"], "Stop at the first command that fails."),
    switch(["-i", "--interactive"], "Go on to the prompt after scripts or -c."),
    switch(["--echo"], "Print each command after a prompt, before its output."),
    switch(["--fail-stale"], "Exit 3 if an info balloon printed old statistics."),
    click.Option(["--monitor"], multiple=True, metavar="ADDR", help="Serve a further HMP monitor; repeatable."),
    click.Option(["--qmp"], multiple=True, metavar="ADDR", help="Serve a QMP monitor; repeatable."),
    switch(["--allow-remote"], "Let hosts other than loopback reach the monitors: there is no password."),
    switch(["--allow-host-files"], "Let clients of the monitors start programs and name files of this host."),
    value(["--count"], "N", _count, "Serve N machines: %d in addresses, --name, --log, --snapshot-dir is the number."),
    switch(["--headless"], "Have no monitor on stdio; serve until SIGTERM, SIGINT or quit."),
    switch(["--exit-with-parent"], "End when the parent process ends, or when stdin ends if that is a pipe or socket."),
    click.Option(["--record"], type=FILE, metavar="FILE.cast",
                 help="Record the session, or a script typed at the prompt."),
    value(["--size"], "COLSxROWS", read_terminal_size, "Terminal size of a recorded script; 80x24 if not given."),
    switch(["--overwrite"], "Let --record replace a file that exists."),
    value(["--snapshot-dir"], "DIR", _directory, "Where savevm keeps its snapshots.", files="dir"),
    value(["--attach"], "ADDR", Place, f"Be the monitor of a running QEMU instead: {KNOWN}."),
    click.Option(["--save-replies"], type=FILE, metavar="FILE",
                 help="With --attach: write the answers of this VM to a file for --replies."),
    switch(["--allow-disruptive"], "With --attach: let scripts run commands that may stop the VM."),
    click.Option(["--log"], type=FILE, metavar="FILE", help="Log what clients send and get (- is stderr)."),
    click.Option(["--replies"], type=FILE, metavar="FILE", help="Answers that add to QEMU's, or replace them."),
    value(["--qemu-version"], "X.Y.Z", version, "The version of QEMU to report; 7.2.0 unless --replies has one."),
    click.Option(["--list-guests"], is_flag=True, is_eager=True, expose_value=False, callback=_list_guests,
                 help="List the guests and their keys, and exit."),
]  # fmt: skip
"""The options. If the name of one is an attribute of Config, the option sets it; `_config` handles all others."""


def command() -> click.Command:
    """Return the click command, for parsing, help and the docs."""
    made = program(
        "hmp",
        OPTIONS,
        "An emulator of QEMU's human monitor, on a real virtio-balloon device core. Type at it, pipe scripts into "
        "it, or give it a SCRIPT (- is stdin).",
        EPILOG,
    )
    made.callback = _values
    return made


def _values(**values: Any) -> dict[str, Any]:
    """Return the options; `given` has the names of those on the command line, even if they have their default
    values."""
    source = click.get_current_context().get_parameter_source
    return {**values, "given": {name for name in values if source(name) is not click.core.ParameterSource.DEFAULT}}


def parse(argv: list[str]) -> Config | None:
    """Return the configuration, or None if the arguments were answered already (--help and so on).

    Raises UsageError with one line that names the option and the value.
    """
    # QEMU's options have one dash and more letters; click would read -name as -n, -a and so on, with a confusing
    # error.
    for word in argv:
        name = word.lstrip("-") if word[:1] == "-" != word[1:2] else ""
        if len(name) > 1 and name in (WITH_VALUE | WITHOUT):
            ours = f": hmp calls it {OURS[name]}" if name in OURS else ""
            raise UsageError(f"{word} is an option of QEMU{ours}; hmp-qemu takes QEMU's command line")
    values = read_arguments(command(), argv)
    return None if values is None else _config(values)


def _config(values: dict[str, Any]) -> Config:
    config = Config()
    for name in vars(config).keys() & values.keys():
        if values[name] is not None:
            setattr(config, name, values[name])
    config.ram = _ram(values["memory"], config.guest)
    config.balloon = not values["no_balloon"]
    if values["no_balloon"] and "device" in values["given"]:
        raise UsageError("--no-balloon: not together with --device")
    config.device_id, config.switches = _only_device(values["device"])
    for kind in ("monitor", "qmp"):
        for spec in values[kind]:
            address = Address(kind, spec if config.count is None else spec.replace(NUMBER, "0"))
            # Checked as the address of machine 0; the number of each machine is put in later.
            address.spec = spec
            address.host_files = values["allow_host_files"]
            config.addresses.append(address)
    scripts, commands = values["script"], values["command"]
    config.scripted = bool(scripts or commands)
    _check_places(config)
    if config.headless and not config.addresses:
        raise UsageError("--headless: needs a --monitor or --qmp address to serve")
    if config.headless and config.interactive:
        raise UsageError("--headless: not together with -i")
    # What depends on several options is checked here, after all have been read.
    check_options(config)
    check_attach(config, values["given"])
    if config.count is not None:
        _check_count(config, config.count)
    if scripts and commands:
        raise UsageError("-c: not together with SCRIPT")
    config.sources = [("-c", list(commands))] if commands else [_open(name) for name in scripts]
    return config


def _check_places(config: Config) -> None:
    """Raise UsageError if two monitors name one address, or two users want stdin and stdout."""
    taken: dict[tuple[str, str, int], str] = {}
    for address in config.addresses:
        scheme, host, port = address.scheme, address.host, address.port
        if scheme in ("stdio", "fd"):
            host = ""
        elif not address.server or (scheme != "unix" and not port):
            continue  # one server may take many connections, and the kernel chooses a new port for each port 0
        if scheme == "unix":
            host = os.path.abspath(host)
        place = scheme.replace("telnet", "tcp"), host, port
        if place in taken:
            words = f"{taken[place]} names the same address" if host else "another monitor has it already"
            raise UsageError(f"--{address.kind}: '{escape(address.spec)}': {words}")
        taken[place] = f"--{address.kind}"
    config.stdio = ("stdio", "", 0) in taken
    if config.stdio and (config.scripted or config.interactive):
        raise UsageError("a monitor on stdio: not together with -c, SCRIPT or -i")
    if config.count is not None and any(scheme in ("stdio", "fd") for scheme, _, _ in taken):
        raise UsageError("--count: not together with a monitor on stdio or fd:N")


def _check_count(config: Config, count: int) -> None:
    """Raise UsageError for options that the machines of --count cannot share."""
    if config.scripted or config.interactive or config.record is not None:
        raise UsageError("--count: not together with -c, SCRIPT, -i or --record")
    if not config.addresses:
        raise UsageError("--count: needs a --monitor or --qmp address to serve")
    for address in config.addresses:
        # TCP port 0 is a different port for each machine by itself.
        if count > 1 and NUMBER not in address.spec and (address.scheme == "unix" or address.port):
            raise UsageError(
                f"--{address.kind}: '{escape(address.spec)}': each machine needs its own; {NUMBER} is its number"
            )


def _ram(memory: int | None, guest: str) -> int:
    """Return the RAM in bytes, from -m or the guest's mem=. Raises UsageError if these differ."""
    asked = make_guest(guest).ram
    if memory is not None and asked and memory != asked:
        raise UsageError(f"-m {format_size(memory)}: --guest says mem={format_size(asked)}")
    return memory or asked or DEFAULT_RAM


def _open(name: str) -> tuple[str, int]:
    """Open a script. All are opened before any runs. Raises UsageError with its name and the reason."""
    if name == "-":
        return "<stdin>", 0
    try:
        # The descriptor stays open: if the file is replaced before the script runs, the old script still runs.
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise UsageError(f"SCRIPT '{name}': is a directory")
    except OSError as error:
        raise UsageError(f"SCRIPT '{name}': {error.strerror}") from None
    except ValueError:
        raise UsageError(f"SCRIPT {name!r}: not a file name") from None
    return name, descriptor
