"""The set of ballooned pages against a plain set: runs, counts, borders, and a guest of 16 TiB."""

from __future__ import annotations

import mmap
from itertools import pairwise
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.balloon.pages import PageSet, full_list, page_runs
from device.balloon.spec import MAX_PFNS_PER_BUFFER
from device.errors import MisuseError
from device.virtio.memory import Region
from device.virtio.queue import Element
from tests.support.lacking import refusing

LIMIT = 600
spans = st.tuples(st.integers(0, LIMIT - 1), st.integers(1, LIMIT)).map(lambda s: (s[0], min(s[1], LIMIT - s[0])))


@given(st.lists(st.tuples(st.booleans(), spans), max_size=30))
def test_it_adds_and_removes_pages_as_a_set(steps: list[tuple[bool, tuple[int, int]]]) -> None:
    pages, model = PageSet(LIMIT), set[int]()
    for adding, (first, length) in steps:
        span = set(range(first, first + length))
        if adding:
            assert pages.add(first, length) == len(span - model)
            model |= span
        else:
            assert pages.remove(first, length) == len(span & model)
            model -= span
        assert pages.count == len(model)
    assert [page in pages for page in range(LIMIT)] == [page in model for page in range(LIMIT)]
    flat = [page for first, length in pages.runs() for page in range(first, first + length)]
    assert flat == sorted(model)
    runs = pages.runs()
    assert all(a + n < b for (a, n), (b, _) in pairwise(runs)), "neighbours are one run"


@pytest.mark.parametrize("page", [-1, LIMIT, 1 << 40])
def test_what_is_beyond_the_limit_is_not_in_it(page: int) -> None:
    pages = PageSet(LIMIT)
    pages.add(0, LIMIT)
    assert page not in pages


@pytest.mark.parametrize("limit", [0, 1, 7, 8, 9, 16, 17])
def test_the_first_and_the_last_page_of_a_small_set(limit: int) -> None:
    pages = PageSet(limit)
    for page in {0, limit - 1} & set(range(limit)):
        assert page not in pages
        assert pages.add(page, 1) == 1
        assert page in pages
    assert len(pages._bits) == max(1, -(-limit // 8)), "a bit a page, and never nothing"
    assert limit not in pages


def test_clearing_takes_all_out() -> None:
    pages = PageSet(LIMIT)
    pages.clear()
    pages.add(3, 100)
    pages.clear()
    assert (pages.count, pages.runs(), 3 in pages) == (0, [], False)
    assert pages.add(3, 1) == 1


@pytest.mark.parametrize("page", [*range(17), 8 * 1024 - 1, 8 * 1024, LIMIT * 100 - 1])
def test_a_lone_page_is_a_run_of_one_wherever_it_is(page: int) -> None:
    """Also when its bit makes the byte of a blank."""
    pages = PageSet(LIMIT * 100)
    pages.add(page, 1)
    assert pages.runs() == [(page, 1)]
    assert pages.remove(page, 1) == 1
    assert pages.runs() == []


def test_runs_far_apart_are_all_found() -> None:
    pages = PageSet(1 << 20)
    for page in (3, 500_000, (1 << 20) - 1):
        pages.add(page, 1)
    assert pages.runs() == [(3, 1), (500_000, 1), ((1 << 20) - 1, 1)]


def test_a_run_longer_than_the_piece_looked_at_is_one_run() -> None:
    pages = PageSet(1 << 20)
    pages.add(100, 900_000)
    assert pages.runs() == [(100, 900_000)]


def test_the_last_page_of_16_tib() -> None:
    """Page numbers up to 2^32-1: nothing wraps, nothing is sign-extended (never again, 9)."""
    limit = 1 << 32
    pages = PageSet(limit)
    assert pages.add(limit - 256, 256) == 256
    assert pages.add(1 << 31, 1) == 1
    assert limit - 1 in pages
    assert limit not in pages
    assert pages.count == 257
    assert pages.remove(limit - 1, 1) == 1
    assert pages.count == 256


def test_a_host_without_room_for_it_is_an_error_that_says_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """This was an OSError once, which the program took for an error of its output."""
    monkeypatch.setattr("device.balloon.pages.mmap.mmap", refusing(12))
    with pytest.raises(MisuseError, match=r"cannot map 75 bytes for the balloon's pages: .*\(a smaller -m may do\)"):
        PageSet(LIMIT)


TOP = (1 << 32) - MAX_PFNS_PER_BUFFER
"""The last page number that a full list of neighbours can begin with."""


def read_list(pfns: list[int], limit: int) -> tuple[list[int], int]:
    """Return the pages that the device reads from a list, and how many it refused."""
    size = 4 * len(pfns)
    region = Region(0, size, mmap.mmap(-1, size))
    region.u8[:] = pack(f"<{len(pfns)}I", *pfns)
    element = Element()
    element.out, element.into = ((region, 0, size),), ()
    refused: list[int] = []
    runs = page_runs(element, limit, lambda rule, detail, count: refused.append(count))
    region.close()
    return [page for first, length in runs for page in range(first, first + length)], sum(refused)


@given(
    st.one_of(st.integers(0, 2000), st.integers(TOP - 5, TOP)),
    st.lists(
        st.tuples(st.integers(0, 255), st.one_of(st.integers(0, 3000), st.integers(0, (1 << 32) - 1))), max_size=2
    ),
    st.sampled_from([600, 2048, 1 << 32]),
)
def test_a_full_list_is_read_entry_by_entry(first: int, changes: list[tuple[int, int]], limit: int) -> None:
    """Nearly all lists are neighbours and are compared as one number; one other entry is enough to make a difference."""
    pfns = list(range(first, first + MAX_PFNS_PER_BUFFER))
    assert full_list(first) == pack(f"<{MAX_PFNS_PER_BUFFER}I", *pfns)
    for place, page in changes:
        pfns[place] = page
    pages, refused = read_list(pfns, limit)
    assert sorted(pages) == sorted(page for page in pfns if page < limit)
    assert refused == sum(page >= limit for page in pfns)
