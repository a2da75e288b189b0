"""The command line, read with click. Every refusal is one line that names the option and the value."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

import click

from device.clock import SECOND
from device.errors import MisuseError
from device.guest.table import KEYS, MODELLED_KEYS, PROFILES, make_guest
from device.units import format_size, parse_seconds, parse_size
from device.virtio.memory import check_ram_size
from hmp import __version__
from hmp.addresses import Address
from hmp.config import CLOCKS, DEFAULT_DEVICE, DEFAULT_GUEST, DEFAULT_RAM, Config
from hmp.monitor.commands.machine import check_driver, parse_switches, split_device, valid_id
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.errors import CommandError, UsageError
from hmp.recording.record import check_options, read_terminal_size
from hmp.streams import STDOUT, naming_stdout

TYPE_CHECKING = False

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
    if not (text.isascii() and text.isdigit()) or len(text) > 19:
        raise MisuseError(f"'{text}' is not a whole number from 0 to 2^63-1")
    seed = int(text)
    if seed >= 1 << 63:
        raise MisuseError(f"'{text}' is not a whole number from 0 to 2^63-1")
    return seed


def _guest(text: str) -> str:
    make_guest(text).close()  # reading it names what is wrong
    return text


def _device(text: str) -> tuple[str, dict[str, bool]]:
    try:
        driver, pairs = split_device(text)
        check_driver(driver)
        id, switches = parse_switches(pairs)
    except CommandError as error:
        raise MisuseError(error.desc) from None
    if any(key == "id" for key, _ in pairs) and not valid_id(id):
        raise MisuseError(f"'{id}' is not a device id (a letter, then letters, digits, '-', '.', '_')")
    return id, switches


def _uuid(text: str) -> str:
    parts = text.split("-")
    digits = "".join(parts)
    if [len(part) for part in parts] != [8, 4, 4, 4, 12] or not all(
        char in "0123456789abcdefABCDEF" for char in digits
    ):
        raise MisuseError(f"'{text}' is not a UUID (xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx)")
    return text.lower()


def _directory(text: str) -> str:
    from hmp.monitor.snapshots import DirectoryStore  # json and hashlib come with it

    DirectoryStore(text)  # looking at it names what is wrong
    return text


def _choice(table: dict[str, Any]) -> Any:
    def read(text: str) -> str:
        if text not in table:
            raise MisuseError(f"'{text}' is not one of {', '.join(table)}")
        return text

    return read


if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType  # not generic before click 8.3


class _Read(_Type):
    """A click type around a function that raises MisuseError."""

    def __init__(self, name: str, read: Any) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except MisuseError as error:
            named = "" if f"'{value}'" in str(error) else f" '{value}'"
            raise UsageError(f"{_spelled(param)}{named}: {error}") from None


def _spelled(param: click.Parameter | None) -> str:
    if isinstance(param, click.Option):
        return max(param.opts, key=len)
    return "SCRIPT"


def _list_guests(context: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        click.echo(guest_table(), nl=False)
        context.exit()


def guest_table() -> str:
    """Return what --list-guests prints."""
    from device.guest.hostile.attacks import ATTACKS

    width = max(len(name) for name in PROFILES)
    lines = [f"{name:{width}}  {profile.help}\n" for name, profile in PROFILES.items()]
    lines.append("\nkeys of every modelled guest, as NAME,key=value:\n")
    lines += [f"{key:{width}}  {KEYS[key][1]}\n" for key in MODELLED_KEYS]
    for name, profile in PROFILES.items():
        own = [key for key in profile.keys if key not in MODELLED_KEYS]
        if own:
            lines.append(f"\nkeys of {name}:\n")
            lines += [f"{key:{width}}  {KEYS[key][1]}\n" for key in own]
    width = max(len(rule) for rule in ATTACKS)
    lines.append("\nrules that hostile breaks:\n")
    lines += [f"{rule:{width}}  {help}\n" for rule, (_, help) in ATTACKS.items()]
    return "".join(lines)


def _told(choices: dict[str, str]) -> str:
    return "; ".join(f"{name}: {help}" for name, help in choices.items()) + "."


def _value(
    flags: list[str],
    name: str,
    read: Any,
    help: str,
    default: str | None = None,
    *,
    offers: dict[str, str] | None = None,
) -> click.Option:
    """An option with a value that `read` turns into what it means; `offers` are the words that a shell completes."""

    def complete(context: click.Context, param: click.Parameter, begun: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        if read is _directory:
            return [CompletionItem(begun, type="dir")]
        return [CompletionItem(word, help=help) for word, help in (offers or {}).items() if word.startswith(begun)]

    shown = default is not None
    made = _Read(name, read)
    # The name as it is written: on its own click shows a type's in capitals.
    return click.Option(
        flags, type=made, metavar=name, help=help, default=default, show_default=shown, shell_complete=complete
    )


def _switch(flags: list[str], help: str) -> click.Option:
    return click.Option(flags, is_flag=True, help=help)


_CLOCKS = {name: help for name, (_, help) in CLOCKS.items()}
_DIALECTS = {each.name: each.help for each in DIALECTS.values()}
_GUESTS = {each.name: each.help for each in PROFILES.values()}

OPTIONS: list[click.Parameter] = [
    click.Argument(["script"], nargs=-1, type=click.Path(), metavar="[SCRIPT]..."),
    _value(["-m", "--memory"], "SIZE", _memory, "RAM of the guest; 1G unless the guest has mem=."),
    _value(
        ["--guest"], "NAME[,key=value...]", _guest, "What answers behind the device.", DEFAULT_GUEST, offers=_GUESTS
    ),
    _value(["--timeout"], "SEC", _timeout, "How long info balloon waits.", "5"),
    _value(["--clock"], "NAME", _choice(CLOCKS), _told(_CLOCKS), "real", offers=_CLOCKS),
    _value(["--seed"], "N", _seed, "Seed of all that is random.", "0"),
    _switch(["-S", "--paused"], "Start with the VM stopped."),
    _value(["--device"], "SPEC", _device, "The balloon device.", DEFAULT_DEVICE),
    _switch(["--no-balloon"], "A machine without a balloon device."),
    click.Option(["--name"], metavar="TEXT", help="What info name prints."),
    _value(["--uuid"], "UUID", _uuid, "What info uuid prints."),
    _value(["--dialect"], "NAME", _choice(DIALECTS), _told(_DIALECTS), "seed", offers=_DIALECTS),
    click.Option(["-c", "--command"], multiple=True, metavar="CMD", help="Run one command; repeatable."),
    _switch(["-e", "--exit-on-error"], "Stop at the first command that fails."),
    _switch(["-i", "--interactive"], "Go on to the prompt after scripts or -c."),
    _switch(["--echo"], "Print each command behind a prompt before its output."),
    _switch(["--fail-stale"], "Exit 3 if an info balloon printed old statistics."),
    click.Option(["--monitor"], multiple=True, metavar="ADDR", help="Serve a further HMP monitor; repeatable."),
    click.Option(["--qmp"], multiple=True, metavar="ADDR", help="Serve a QMP monitor; repeatable."),
    _switch(["--allow-remote"], "Let hosts other than loopback reach the monitors: there is no password."),
    _switch(["--allow-host-files"], "Let clients of the monitors start programs and name files of this host."),
    _switch(["--headless"], "No monitor on stdio: serve until SIGTERM, SIGINT or quit."),
    click.Option(
        ["--record"],
        type=click.Path(),
        metavar="FILE.cast",
        help="Record the session, or a script on --clock warp.",
    ),
    _value(["--size"], "COLSxROWS", read_terminal_size, "Terminal size of a recorded script: 80x24."),
    _switch(["--overwrite"], "Let --record replace a file that exists."),
    _value(["--snapshot-dir"], "DIR", _directory, "Where savevm keeps its snapshots."),
    click.Option(
        ["--list-guests"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_list_guests,
        help="List the guests and their keys, and exit.",
    ),
]


def command() -> click.Command:
    """Return the click command, for parsing, help and the docs; it does nothing but return its options."""
    made = click.Command(
        "hmp",
        params=list(OPTIONS),
        callback=lambda **values: values,
        help="An emulator of QEMU's human monitor, on a real virtio-balloon device core. Type at it, pipe scripts into "
        "it, or give it a SCRIPT (- is stdin).",
        epilog=EPILOG,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    return click.version_option(__version__, prog_name="hmp", message="%(prog)s %(version)s")(made)


def complete(instruction: str) -> int:
    """Answer a shell that asks what can be typed next (docs/completion.md), in click's way; returns the exit status."""
    from click.shell_completion import shell_complete

    return shell_complete(command(), {}, "hmp", "_HMP_COMPLETE", instruction)


def parse(argv: list[str]) -> Config | None:
    """Return what the arguments say, or None where they were answered already (--help and the like).

    Raises UsageError, one line that names the option and the value.
    """
    try:
        with naming_stdout():  # --help and the like print
            values = command().main(argv, "hmp", standalone_mode=False)
    except click.UsageError as error:
        raise UsageError(" ".join(error.format_message().split())) from None
    except click.Abort:  # how click takes SIGINT
        raise KeyboardInterrupt from None
    except SystemExit:  # how click takes a stdout that is closed
        raise OSError(errno.EPIPE, "", STDOUT) from None
    if not isinstance(values, dict):  # the status of an eager option
        return None
    return _config(values)


def _config(values: dict[str, Any]) -> Config:
    config = Config()
    config.guest = values["guest"]
    config.ram = _ram(values["memory"], config.guest)
    config.timeout = values["timeout"]
    config.clock = values["clock"]
    config.seed = values["seed"]
    config.paused = values["paused"]
    config.balloon = not values["no_balloon"]
    config.device_id, config.switches = values["device"]
    config.name = values["name"]
    config.uuid = values["uuid"] or config.uuid
    config.dialect = values["dialect"]
    config.exit_on_error = values["exit_on_error"]
    config.interactive = values["interactive"]
    config.echo = values["echo"]
    config.fail_stale = values["fail_stale"]
    config.addresses = [Address("monitor", spec) for spec in values["monitor"]]
    config.addresses += [Address("qmp", spec) for spec in values["qmp"]]
    for address in config.addresses:
        address.host_files = values["allow_host_files"]
    config.allow_remote = values["allow_remote"]
    config.headless = values["headless"]
    config.snapshot_dir = values["snapshot_dir"]
    if config.headless and not config.addresses:
        raise UsageError("--headless: needs a --monitor or --qmp address to serve")
    if config.headless and config.interactive:
        raise UsageError("--headless: not together with -i")
    config.record, config.size, config.overwrite = values["record"], values["size"], values["overwrite"]
    check_options(config)
    scripts, commands = values["script"], values["command"]
    if scripts and commands:
        raise UsageError("-c: not together with SCRIPT")
    config.scripted = bool(scripts or commands)
    if commands:
        config.sources = [("-c", list(commands))]
    else:
        config.sources = [_open(name) for name in scripts]
    return config


def _ram(memory: int | None, guest: str) -> int:
    """Return the RAM in bytes: what -m says or the guest's mem=, which must not be two. Raises UsageError."""
    asked = make_guest(guest).ram
    if memory is not None and asked and memory != asked:
        raise UsageError(f"-m {format_size(memory)}: --guest says mem={format_size(asked)}")
    return memory or asked or DEFAULT_RAM


def _open(name: str) -> tuple[str, int]:
    """Open a script before any runs. Raises UsageError naming it and the reason."""
    if name == "-":
        return "<stdin>", 0
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise UsageError(f"SCRIPT '{name}': is a directory")
    except OSError as error:
        raise UsageError(f"SCRIPT '{name}': {error.strerror}") from None
    except ValueError:
        raise UsageError(f"SCRIPT {name!r}: not a file name") from None
    return name, descriptor
