"""The modelled guest beside a real Linux of the same size, both through hmp: statistics, events and their order."""

from __future__ import annotations

import pytest

from tests.support.beside import DEVICE, OOM, PLAIN, Row, compared
from tests.support.live import Unavailable

pytestmark = [pytest.mark.external, pytest.mark.slow]

MIB = 1 << 20

NEAR = {"total-memory": 0.01, "free-memory": 0.15, "available-memory": 0.15}
"""How far, of RAM, a size may be from the real one: ours has the programs and files of a small distribution."""

MOVES = 0.05
"""The same for what a step changes, where nothing but the step counts."""


def pairs(memory: int, steps: tuple[tuple[str, ...], ...], device: str = DEVICE) -> list[tuple[Row, Row]]:
    try:
        return compared(memory, steps, device)
    except Unavailable as why:
        pytest.skip(str(why))


@pytest.mark.parametrize("memory", [256, 1024])
def test_a_life_without_deflate_on_oom(memory: int) -> None:
    before: tuple[Row, Row] | None = None
    for real, ours in pairs(memory, PLAIN):
        assert ours.events == real.events, real.name
        assert ours.stats["actual"] == real.stats["actual"]
        assert ours.stats.keys() == real.stats.keys()
        for name, part in NEAR.items():
            if name in real.stats:
                assert abs(ours.stats[name] - real.stats[name]) < part * memory * MIB, (real.name, name)
        if before is not None and "total-memory" in real.stats and "total-memory" in before[0].stats:
            for name in NEAR:
                moved = [now.stats[name] - then.stats[name] for now, then in zip((real, ours), before, strict=True)]
                assert abs(moved[0] - moved[1]) < MOVES * memory * MIB, (real.name, name, moved)
        before = real, ours


def test_a_life_with_deflate_on_oom() -> None:
    rows = pairs(256, OOM, f"{DEVICE},deflate-on-oom=on")
    for real, ours in rows:
        assert ours.events == real.events, real.name
        assert abs(ours.stats["actual"] - real.stats["actual"]) <= 16
        assert ours.stats["total-memory"] == pytest.approx(real.stats["total-memory"], rel=0.01)
        assert abs(ours.stats["free-memory"] - real.stats["free-memory"]) < 0.1 * 256 * MIB
    for side in (0, 1):
        low, taken, freed = (row[side].stats["actual"] for row in rows[1:4])
        assert low < taken == freed, "it stays above its target after the memory is free again"
