"""The table of guests; `make_guest` reads what `--guest NAME[,key=value...]` says."""

from __future__ import annotations

from device.balloon.spec import F_DEFLATE_ON_OOM, F_FREE_PAGE_HINT, F_REPORTING, F_STATS_VQ, SEED_STATS, STAT_COUNT
from device.clock import SECOND
from device.errors import MisuseError
from device.machine.guest import Guest
from device.virtio.spec import F_EVENT_IDX, F_INDIRECT_DESC, bit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


MODELLED = "device.guest.model.guest:ModelledGuest"

SIXTEEN = (0, 1, 2, 3, 10, 11, 12, 13, 14, 15, 8, 9, 4, 5, 6, 7)
"""The statistics of Linux 6.12 with huge pages configured, in the order in which it sends them."""

SINCE = bit(F_EVENT_IDX) | bit(F_FREE_PAGE_HINT) | bit(F_REPORTING)
"""Features that Linux's driver did not have in 2010."""


class Profile:
    """One guest: its name, one line about it, the keys it takes, and how it is made.

    `factory` is its class as MODULE:NAME. It is imported when needed and called with the name, the settings (given ones
    replace the profile's), the spec, and `traits` as keywords. `controls` is the class of its Controls, as MODULE:NAME.
    `host` means that its keys name files of this host, or that it starts programs here: clients that may only control
    the machine must not choose it.
    """

    __slots__ = ("_keys", "_modelled", "controls", "factory", "help", "host", "name", "settings", "traits")

    def __init__(
        self,
        name: str,
        help: str,
        *,
        settings: Mapping[str, object] | None = None,
        factory: str = MODELLED,
        controls: str = "device.guest.model.controls:ModelledControls",
        keys: tuple[str, ...] = (),
        modelled: bool = True,
        host: bool = False,
        **traits: object,
    ) -> None:
        self.name = name
        self.help = help
        self.settings = settings or {}
        self.factory, self.controls, self._keys, self._modelled = factory, controls, keys, modelled
        self.host, self.traits = host, traits

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys it takes: those of all modelled guests if it is one, then its own."""
        from device.guest.keys import MODELLED_KEYS  # only when keys are given or shown: most guests have none

        return (*MODELLED_KEYS, *self._keys) if self._modelled else self._keys


# fmt: off
PROFILES: dict[str, Profile] = {profile.name: profile for profile in (
    Profile("linux", "a modelled Linux 6.1: ten statistics, answers at once"),
    Profile("linux-2.6.34", "a Linux of 2010: the first six statistics",
            tags=SEED_STATS, accepts=bit(F_INDIRECT_DESC), refuses=SINCE | bit(F_DEFLATE_ON_OOM)),
    Profile("linux-6.12", "a newer kernel: sixteen statistics in its order", tags=SIXTEEN),
    Profile("windows", "as virtio-win: reports nothing before its service runs, after 20 s, then ten statistics",
            settings={"service": 20 * SECOND}, keys=("service",), tags=tuple(range(10)), whole=True,
            refuses=SINCE & ~bit(F_REPORTING) | bit(F_DEFLATE_ON_OOM)),
    Profile("nostats", "never negotiates the statistics queue", refuses=bit(F_STATS_VQ)),
    Profile("nodriver", "has no balloon driver at all", driver=False),
    Profile("silent", "negotiates the statistics queue but never puts a buffer on it", primes=False),
    Profile("hung", "answers the first request, then nothing", settings={"answers": 1}),
    Profile("slow", "answers 2 s after being asked", settings={"delay": 2 * SECOND}),
    Profile("flaky", "misses three of ten notifications", settings={"loss": 300_000}),
    Profile("partial", "reports free and total memory only", settings={"stats": (4, 5)}),
    Profile("empty", "answers, but knows no statistic", settings={"stats": ()}),
    Profile("hostile", "breaks the rules of virtio, one of them or any, in a seeded random way",
            accepts=bit(F_INDIRECT_DESC), refuses=SINCE,
            factory="device.guest.hostile.guest:HostileGuest", keys=("seed", "rule")),
    Profile("host", "mirrors this machine's own memory statistics, live",
            tags=(*SIXTEEN, *range(len(SIXTEEN), STAT_COUNT)), factory="device.guest.model.host_guest:HostGuest"),
    Profile("uml", "a real Linux kernel: boots User-Mode Linux (Debian's user-mode-linux and busybox-static)",
            factory="device.guest.uml.guest:UmlGuest", controls="device.guest.uml.controls:UmlControls",
            modelled=False, keys=("mem", "kernel", "module", "busybox"), host=True),
    Profile("vhost-user", "the guest of another VMM: waits for its vhost-user front end on a socket",
            factory="device.guest.vhost_user.guest:VhostUserGuest", controls=Guest.controlled_by,
            modelled=False, keys=("path",), host=True),
)}
# fmt: on


def make_guest(spec: str) -> Guest:
    """Return the guest that `spec` (NAME[,key=value...]) describes. Raises MisuseError naming what is wrong in it."""
    name, *pairs = spec.split(",")
    profile = PROFILES.get(name)
    if profile is None:
        raise MisuseError(f"no guest is called '{name}' (one of {', '.join(PROFILES)})")
    settings: dict[str, object] = {}
    for pair in pairs:
        from device.guest.keys import KEYS

        key, equals, text = pair.partition("=")
        if key not in profile.keys:
            known = f"takes {', '.join(profile.keys)}" if profile.keys else "takes no keys"
            raise MisuseError(f"guest {name} has no key '{key}' ({known})")
        if not equals or not text:
            raise MisuseError(f"guest {name}: {key} needs a value ({KEYS[key][1]})")
        if key in settings:
            raise MisuseError(f"guest {name}: {key} is given twice")
        try:
            settings[key] = KEYS[key][0](text)
        except MisuseError as error:
            raise MisuseError(f"guest {name}: {key}: {error}") from None
    module, _, attribute = profile.factory.partition(":")
    try:
        factory = getattr(__import__(module, fromlist=[attribute]), attribute)
    except ImportError as error:  # a Python without processes or sockets, as in a browser
        raise MisuseError(f"the {name} guest cannot run here: this Python has no {error.name}") from None
    guest: Guest = factory(name, {**profile.settings, **settings}, spec, **profile.traits)
    guest.controlled_by = profile.controls
    return guest
