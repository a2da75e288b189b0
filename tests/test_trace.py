"""One `info balloon` through the modules: what docs/design.md draws, and that no call comes back to where it was."""

from __future__ import annotations

import pytest

from tests.support import trace


@pytest.mark.parametrize("way", trace.WAYS)
def test_no_call_enters_a_module_that_it_came_through_but_the_machine(way: str) -> None:
    """The machine is told what became of what it asked for, as a guest and a listener do."""
    stacks = trace.traced(way)
    assert any(module == "device.balloon.stats_queue" for stack in stacks for module in trace.modules(stack))
    for stack in stacks:
        entered = [module for module in trace.modules(stack) if module != "device.machine.machine"]
        assert len(entered) == len(set(entered)), " > ".join(f"{module}:{function}" for module, function in stack)


def test_the_drawing_is_what_a_trace_makes_of_it() -> None:
    """python -m tests.support.trace makes it anew."""
    drawn = trace.drawing(trace.traced("pipe"), trace.traced("qmp"))
    assert trace.DRAWING.read_text() == drawn, "the calls have changed: python -m tests.support.trace draws them anew"
