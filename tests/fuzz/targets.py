"""What is fuzzed. A target is a function of bytes; it may raise nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from device.virtio.spec import PAGE_SIZE
from tests.fuzz import clients, driver, keys, lines, snapshots


class Target:
    """A target: its function, what makes the corpus it starts from, the longest input worth trying; further `words`
    worth putting into an input, and a `mutate` of its own (input, longest, seed) that takes turns with libFuzzer's.
    """

    def __init__(
        self,
        function: Callable[[bytes], None],
        seeds: Callable[[], Iterator[bytes]],
        longest: int,
        *,
        words: Iterable[str] = (),
        mutate: Callable[[bytes, int, int], bytes] | None = None,
    ) -> None:
        self.function = function
        self.seeds = seeds
        self.longest = longest
        self.words = tuple(words)
        self.mutate = mutate


TARGETS: dict[str, Target] = {
    "rings": Target(driver.rings, driver.rings_seeds, 130),
    "ring": Target(driver.ring, driver.ring_seeds, 110),
    "stats": Target(driver.stats, driver.stats_seeds, 700),
    "vhost": Target(driver.vhost, driver.vhost_seeds, 200),
    "qmp": Target(clients.qmp, clients.qmp_seeds, 96, words=clients.QMP_WORDS),
    "session": Target(clients.session, clients.session_seeds, 72),
    "hmp": Target(lines.hmp, lines.hmp_seeds, 200),
    "grammar": Target(lines.grammar, lines.grammar_seeds, 64, words=lines.WORDS),
    "words": Target(keys.words, keys.words_seeds, 64, words=keys.WORDS_WORDS),
    "editor": Target(keys.editor, keys.editor_seeds, 56, words=keys.EDITOR_WORDS),
    "script": Target(keys.script, keys.script_seeds, 120, words=keys.SCRIPT_WORDS),
    "snapshot": Target(snapshots.snapshot, snapshots.snapshot_seeds, 8 * PAGE_SIZE, mutate=snapshots.respell_state),
}
"""By name; the names are also in __main__."""
