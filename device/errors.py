"""The two kinds of errors.

*Misuse* is an error of the caller: a Python exception that says what was wrong. Nothing has changed when it is raised.
*Faults* are errors of the guest: the core catches them, counts them under the broken rule, and reports an event.
"""

from __future__ import annotations


class MisuseError(ValueError):
    """The caller asked for something impossible. The message says what; the state is as before."""


class UnsupportedError(MisuseError):
    """The request is valid, but this guest or machine cannot do it; the message says why."""


class GuestFault(Exception):
    """The guest broke a rule. The core always catches it.

    `rule` is one of RULES, `detail` has the numbers.
    """

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule = rule
        self.detail = detail


# Many of these are real bugs of older implementations: an index ahead by more than the ring, a statistics buffer that
# replaced the held one, a new kernel's unknown tags. docs/design.md ("Never again") has the list.
RULES: dict[str, str] = {
    "bad-address": "an address outside the guest's memory",
    "bad-ring": "a ring that is misaligned, of a wrong size or outside the guest's memory",
    "queue-live": "a queue moved while it was live",
    "avail-overrun": "more available buffers than the queue has entries",
    "bad-head": "a descriptor index beyond the queue's size",
    "chain-loop": "a descriptor chain longer than the queue",
    "bad-indirect": "an indirect table that is empty, ragged, too long, chained or nested",
    "direction": "a readable descriptor after a writable one, or the wrong direction for the queue",
    "zero-length": "a buffer without a single byte",
    "huge-buffer": "a buffer larger than the device looks at",
    "bad-pfn": "a page frame number beyond the guest's memory",
    "double-inflate": "a page that already is in the balloon",
    "double-deflate": "a page that is not in the balloon",
    "ragged-pfns": "a page list that is not a multiple of four bytes, or a command id that is not four",
    "partial-record": "a statistics buffer that ends within a record",
    "duplicate-tag": "a statistic reported twice in one buffer",
    "unknown-tag": "a statistic that this device does not know",
    "unsolicited-stats": "a second statistics buffer while one was held",
    "features-late": "features changed after FEATURES_OK",
    "features-unknown": "features accepted that were not offered",
    "status-order": "status bits set out of order",
    "config-write": "a write to a configuration field that only the device writes",
    "bad-actual": "an actual size larger than the guest's memory",
    "notify-dead": "a notification for a queue that does not exist or is not set up",
    "kick-storm": "more buffers in one notification than the device serves at once",
    "front-end": "a vhost-user front end that broke the protocol: it was cut off",
}
"""Every rule that a guest can break, and what breaks it. Counters, events and docs use these names."""

FATAL_RULES = frozenset((
    "bad-address", "bad-ring", "queue-live", "avail-overrun", "bad-head", "chain-loop", "bad-indirect", "direction",
    "zero-length", "features-late",
))  # fmt: skip
"""Rules after which the rings cannot be trusted: the device is marked broken until it is reset.

After any other rule the device ignores what was wrong and continues.
"""
