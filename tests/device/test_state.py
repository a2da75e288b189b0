"""Declared state; and untrusted plain data: what is accepted, what is refused, and in which words."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from device.fields import Fields, SnapshotError
from device.state import FAR, Age, Flag, Integer, Member, Parts, Text, load, reset, save
from device.virtio.spec import U64
from tests.support.state import undeclared


def fields(**members: object) -> Fields:
    return Fields(members, "top")


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(SnapshotError) as caught:
        act()
    return str(caught.value)


class TestMessages:
    @pytest.mark.parametrize(
        ("message", "shown"),
        [
            ("plain words", "plain words"),
            ("x" * 300, "x" * 300),
            ("x" * 301, "x" * 300 + "..."),
            ("a\x1b[2Jb", r"a\x1b[2Jb"),
            ("line\nline", r"line\nline"),
        ],
        ids=["short", "just short enough", "long", "escapes", "lines"],
    )
    def test_they_are_one_short_printable_line(self, message: str, shown: str) -> None:
        assert str(SnapshotError(message)) == shown


class TestObjects:
    @pytest.mark.parametrize("data", [None, [], "x", 5, {1: 2}, {"a": 1, None: 2}], ids=repr)
    def test_anything_else_is_refused_by_its_place(self, data: object) -> None:
        assert refusal(lambda: Fields(data, "top")) == "top is not an object"

    def test_what_is_read_is_not_changed(self) -> None:
        data = {"a": 1}
        Fields(data, "top").integer("a")
        assert data == {"a": 1}

    def test_a_member_is_taken_once(self) -> None:
        once = fields(a=1)
        assert once.integer("a") == 1
        assert refusal(lambda: once.integer("a")) == "top.a is missing"

    def test_what_nobody_took_is_refused_by_name(self) -> None:
        left = fields(a=1, b=2)
        left.integer("a")
        assert refusal(left.done) == "top.b is unknown"
        left.integer("b")
        left.done()

    def test_one_inside_another_carries_the_whole_path(self) -> None:
        inner = fields(a={"b": {"c": 5}}).section("a").section("b")
        assert refusal(lambda: inner.integer("c", 0, 4)) == "top.a.b.c is not an integer from 0 to 4"
        assert refusal(lambda: fields(a=1).section("a")) == "top.a is not an object"

    def test_one_that_may_be_missing_is_null_then(self) -> None:
        assert fields(a=None).maybe("a") is None
        there = fields(a={"b": 1}).maybe("a")
        assert there is not None
        assert refusal(lambda: there.flag("b")) == "top.a.b is not true or false"
        assert refusal(lambda: fields().maybe("a")) == "top.a is missing"
        assert refusal(lambda: fields(a=0).maybe("a")) == "top.a is not an object"


class TestIntegers:
    @pytest.mark.parametrize("value", [3, 4, 9])
    def test_both_ends_of_the_range_are_in_it(self, value: int) -> None:
        assert fields(a=value).integer("a", 3, 9) == value
        assert fields(a=value).perhaps("a", 3, 9) == value

    @pytest.mark.parametrize("value", [2, 10, -1, 1 << 64, True, 5.0, "5", None, [5]], ids=repr)
    def test_all_else_is_refused(self, value: object) -> None:
        words = "top.a is not an integer from 3 to 9"
        assert refusal(lambda: fields(a=value).integer("a", 3, 9)) == words
        if value is not None:
            assert refusal(lambda: fields(a=value).perhaps("a", 3, 9)) == words

    def test_64_bits_unless_told_otherwise(self) -> None:
        for value in (0, U64):
            assert fields(a=value).integer("a") == value
            assert fields(a=value).perhaps("a") == value
            assert fields(a=[value]).integers("a", 1) == [value]
            assert fields(a={"b": value}).counters("a", 1) == {"b": value}
        for value in (-1, U64 + 1):
            words = f"top.a is not an integer from 0 to {U64}"
            assert refusal(lambda value=value: fields(a=value).integer("a")) == words
            assert refusal(lambda value=value: fields(a=value).perhaps("a")) == words
            assert refusal(lambda value=value: fields(a={"b": value}).counters("a", 1)) == words.replace(
                "top.a", "top.a.b"
            )

    def test_one_that_may_be_null(self) -> None:
        given = fields(a=None)
        assert given.perhaps("a") is None
        given.done()
        assert refusal(lambda: fields().perhaps("a")) == "top.a is missing"


class TestFlagsAndTexts:
    @pytest.mark.parametrize("value", [0, 1, None, "true", []], ids=repr)
    def test_a_flag_is_true_or_false(self, value: object) -> None:
        assert fields(a=True).flag("a") is True
        assert fields(a=False).flag("a") is False
        assert refusal(lambda: fields(a=value).flag("a")) == "top.a is not true or false"

    @pytest.mark.parametrize("value", ["a\n", "\x1b", "\ud800", 5, None, ["a"]], ids=ascii)
    def test_a_text_is_printable(self, value: object) -> None:
        assert fields(a="").text("a") == ""
        assert fields(a="grün 1").text("a") == "grün 1"
        assert refusal(lambda: fields(a=value).text("a")) == "top.a is not printable text"


class TestLists:
    def test_objects_up_to_a_number(self) -> None:
        first, second = fields(a=[{"b": 1}, {"b": "x"}]).sections("a", 2)
        assert first.integer("b") == 1
        assert refusal(lambda: second.integer("b", 0, 1)) == "top.a[1].b is not an integer from 0 to 1"
        assert fields(a=[]).sections("a", 0) == []
        assert refusal(lambda: fields(a=[{}, {}]).sections("a", 1)) == "top.a is not a list of at most 1"
        assert refusal(lambda: fields(a={}).sections("a", 1)) == "top.a is not a list of at most 1"
        assert refusal(lambda: fields(a=[{}, 5]).sections("a", 2)) == "top.a[1] is not an object"

    def test_integers_up_to_a_number(self) -> None:
        assert fields(a=[0, 7, 7]).integers("a", 3, 7) == [0, 7, 7]
        assert refusal(lambda: fields(a=[0, 1]).integers("a", 1, 7)) == "top.a is not a list of at most 1"
        assert refusal(lambda: fields(a=5).integers("a", 1, 7)) == "top.a is not a list of at most 1"

    @pytest.mark.parametrize("item", [-1, 8, True, None, "1", 1.0], ids=repr)
    def test_integers_are_of_their_range(self, item: object) -> None:
        words = "top.a holds something other than integers from 0 to 7"
        assert refusal(lambda: fields(a=[1, item]).integers("a", 2, 7)) == words

    def test_counters_up_to_a_number(self) -> None:
        assert fields(a={"b": 0, "c": 9}).counters("a", 2, 9) == {"b": 0, "c": 9}
        assert refusal(lambda: fields(a={"b": 0, "c": 1}).counters("a", 1, 9)) == "top.a has more than 1 members"
        assert refusal(lambda: fields(a={"b": 10}).counters("a", 1, 9)) == "top.a.b is not an integer from 0 to 9"


class TestPairs:
    def test_the_second_may_be_null(self) -> None:
        assert fields(a=[[0, U64], [U64, None]]).pairs("a", 2) == [(0, U64), (U64, None)]
        assert fields(a=[]).pairs("a", 0) == []

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (5, "is not a list of at most 2"),
            ([[0, 0], [0, 0], [0, 0]], "is not a list of at most 2"),
            ([[0, 0], (0, 0)], "holds something other than pairs"),
            ([[0, 0], [0]], "holds something other than pairs"),
            ([[0, 0, 0]], "holds something other than pairs"),
            ([[0, U64 + 1]], "holds a number out of range"),
            ([[-1, 0]], "holds a number out of range"),
            ([[True, 0]], "holds a number out of range"),
            ([[0, "x"]], "holds a number out of range"),
            ([[None, 0]], "holds a pair without its first part"),
        ],
        ids=range(10),
    )
    def test_all_else_is_refused(self, value: object, words: str) -> None:
        assert refusal(lambda: fields(a=value).pairs("a", 2)) == f"top.a {words}"


class Inner:
    """A part of the part below."""

    __slots__ = ("here",)
    STATE = (Flag("here"),)
    DERIVED = ()

    def __init__(self) -> None:
        reset(self, new=True)


class Whole:
    """A part with a member of each kind."""

    __slots__ = ("born", "helper", "inners", "names", "number", "words", "young")
    STATE = (
        Integer("number", lambda whole: whole.helper, 2, low=1),
        Text("text", attribute="words", kept=True, check=lambda whole, text: "" if text != "bad" else "is bad"),
        Age("age", attribute="born"),
        Parts("inners"),
        Integer("young", 9, 7, since=2),
        Member("names", lambda whole, now: sorted(whole.names), lambda whole, fields: whole.take(fields), set),
    )
    DERIVED = ("helper",)

    def __init__(self) -> None:
        self.helper = 5
        self.inners = [Inner(), Inner()]
        self.born = 0
        reset(self, new=True)
        self.born = 30

    def take(self, fields: Fields) -> None:
        self.names = {str(number) for number in fields.integers("names", 4)}


class TestDeclared:
    def test_a_new_part_has_its_defaults_and_each_its_own(self) -> None:
        one, two = Whole(), Whole()
        assert (one.number, one.words, one.young, one.names) == (2, "", 7, set())
        assert one.names is not two.names

    def test_what_was_saved_is_there_again_and_ages_have_grown(self) -> None:
        one, two = Whole(), Whole()
        one.number, one.words, one.young, one.inners[1].here = 5, "kept", 9, True
        plain = save(one, 40)
        assert plain["age"] == 10
        load(two, Fields(plain, "top", then=100))
        assert two.born == 90
        two.born = 30
        assert save(two, 40) == plain

    def test_a_reset_leaves_alone_what_is_kept(self) -> None:
        one = Whole()
        one.number, one.words = 5, "kept"
        reset(one)
        assert (one.number, one.words) == (2, "kept")

    def test_an_older_format_gives_the_default_and_may_not_have_the_member(self) -> None:
        one = Whole()
        plain = save(one, 40)
        one.young = 9
        words = refusal(lambda: load(one, Fields(plain, "top", version=1)))
        assert words == "top.young is unknown"
        del plain["young"]
        load(one, Fields(plain, "top", version=1))
        assert one.young == 7
        assert refusal(lambda: load(one, Fields(plain, "top", version=2))) == "top.young is missing"

    @pytest.mark.parametrize(
        ("member", "value", "words"),
        [
            ("number", 6, "top.number is not an integer from 1 to 5"),
            ("number", 0, "top.number is not an integer from 1 to 5"),
            ("text", "bad", "top.text is bad"),
            ("age", -1, f"top.age is not an integer from 0 to {FAR}"),
            ("inners", [{"here": 1}, {"here": True}], "top.inners[0].here is not true or false"),
            ("inners", [{"here": True, "x": 1}, {"here": True}], "top.inners[0].x is unknown"),
            ("inners", [{"here": True}], "top.inners are not 2"),
            ("inners", [{"here": True}, {}], "top.inners[1].here is missing"),
        ],
    )
    def test_a_wrong_member_is_named_by_its_path(self, member: str, value: object, words: str) -> None:
        plain = {**save(Whole(), 40), member: value}
        assert refusal(lambda: load(Whole(), Fields(plain, "top"))) == words

    def test_what_is_neither_state_nor_derived_is_found(self) -> None:
        class More(Whole):
            pass

        assert undeclared(Whole()) == []
        more = More()
        more.extra = 1  # type: ignore[attr-defined]
        assert undeclared(more) == ["extra"]


class Late:
    """A part with a member that was added in a later format, and one that was always there."""

    STATE = (Integer("old", 9), Integer("new", 9, 7, late=True))
    DERIVED = ()

    def __init__(self) -> None:
        reset(self, new=True)


class TestMembersThatCameLater:
    def test_one_that_is_missing_has_its_default(self) -> None:
        late = Late()
        late.new = 3  # type: ignore[attr-defined]
        load(late, fields(old=2))
        assert save(late, 0) == {"old": 2, "new": 7}

    def test_one_that_is_there_is_taken_with_distrust(self) -> None:
        late = Late()
        load(late, fields(old=2, new=5))
        assert save(late, 0) == {"old": 2, "new": 5}
        assert refusal(lambda: load(late, fields(old=2, new=10))) == "top.new is not an integer from 0 to 9"

    def test_any_other_must_be_there(self) -> None:
        assert refusal(lambda: load(Late(), fields(new=5))) == "top.old is missing"


class TestPartsInOneObject:
    def test_they_are_saved_and_loaded_together(self) -> None:
        late, inner = Late(), Inner()
        assert save(late, 0, inner) == {"here": False, "old": 0, "new": 7}
        load(late, fields(here=True, old=1, new=2), inner)
        assert save(late, 0, inner) == {"here": True, "old": 1, "new": 2}

    def test_what_none_of_them_knows_is_refused(self) -> None:
        assert refusal(lambda: load(Late(), fields(here=True, old=1, new=2, odd=3), Inner())) == "top.odd is unknown"

    def test_an_unknown_name_is_cut_and_printable(self) -> None:
        words = refusal(lambda: load(Inner(), fields(here=True, **{"\x1b" * 1000: 1})))
        assert (words.isprintable(), len(words)) == (True, len("top. is unknown") + 40)
