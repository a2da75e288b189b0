"""The QMP codec: what QEMU 7.2 makes of bytes, and how it writes its answers. No QEMU needed here."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmp.qjson.codec import MAX_DEPTH, Decoder, ParseFailure, encode

GOOD = b'{"execute":"query-balloon","id":7}'
NEXT = {"execute": "query-balloon", "id": 7}


def parse_error(*complaints: str) -> list[object]:
    return [ParseFailure(f"JSON parse error, {complaint}") for complaint in complaints]


def stray(*texts: str) -> list[object]:
    return parse_error(*(f"stray '{text}'" for text in texts))


VALUE = "expecting value"
UTF8 = "invalid UTF-8 sequence in string"
ESCAPE = "invalid escape sequence in string"
KEY = "key is not a string in object"
DEPTH = ParseFailure("JSON nesting depth limit exceeded")

#: Malformed input and all output for it. Recorded from QEMU 7.2; tests/conformance asks a live one again.
MALFORMED: dict[bytes, list[object]] = {
    # structure
    b"{x}": parse_error("invalid keyword 'x'"),
    b'{"execute" "query-status"}': parse_error("missing : in object pair"),
    b'{"execute":"query-status",}': parse_error(VALUE),
    b'{"execute":"query-status","execute":"stop"}': parse_error("duplicate key"),
    b'{"a":1,"a":x}': parse_error("invalid keyword 'x'"),
    b'{"\\u0000":1,"\xc0\x80":2}': parse_error("duplicate key"),
    b'{"a":1 "b":2}': parse_error("expected separator in dict"),
    b'{"a":1,,}': parse_error(VALUE),
    b'{"a":}': parse_error(VALUE),
    b"{,}": parse_error(VALUE),
    b"{1:2}": parse_error(KEY),
    b"{[1]:2}": parse_error(KEY),
    b"{[x]:2}": parse_error("invalid keyword 'x'"),
    b'{"a"]': parse_error("missing : in object pair"),
    b"[1 2]": parse_error("expected separator in list"),
    b"[1,]": parse_error(VALUE),
    b"[,]": parse_error(VALUE),
    b"[}]": parse_error(VALUE, VALUE),
    b"{]}": parse_error(VALUE, VALUE),
    b"{[}]": parse_error(VALUE),
    b"]},:": parse_error(VALUE, VALUE, VALUE, VALUE),
    # words
    b"tru\n": parse_error("invalid keyword 'tru'"),
    b"tRUE\n": [*parse_error("invalid keyword 't'"), *stray("R")],
    b"a" * 1100 + b"\n": parse_error("invalid keyword '" + "a" * (1023 - len("invalid keyword '"))),
    b"NaN\n": stray("N"),
    b"[Infinity]": [*stray("I"), *parse_error(VALUE)],
    b"[%d]": [*stray("%"), *parse_error(VALUE)],
    # numbers
    b"01\n": stray("01"),
    b'{"a":01}': [*stray("01"), *parse_error(VALUE)],
    b'{"a":01,"b":2}': [*stray("01"), *parse_error(VALUE), "b", *parse_error(VALUE), 2, *parse_error(VALUE)],
    b'{"a":0e5}': parse_error("expected separator in dict"),
    b'{"a":-0E5}': [*stray("E"), *parse_error(VALUE)],
    b"-x\n": stray("-x"),
    b"--1\n": stray("--"),
    b"1.}\n": stray("1.}"),
    b"1.e5\n": stray("1.e"),
    b"1e+}\n": stray("1e+}"),
    b".5\n": stray("."),
    b"+1\n": stray("+"),
    # strings
    b'["a\nb"]': [*stray('"a\n'), *parse_error(VALUE)],
    b'["a\x00b"]': [*stray('"a'), *parse_error(VALUE)],
    b'["a\\\n': stray('"a\\\n'),  # the bracket before it is forgotten
    b'["\\q"]': parse_error(ESCAPE),
    b'["\\\xc3\xa9"]': parse_error(ESCAPE),
    b'["\\u12"]': parse_error('\\u12" is not a valid Unicode character'),
    b'["\\u12g4"]': parse_error("\\u12g4 is not a valid Unicode character"),
    b'["\\ud800"]': parse_error("\\ud800 is not a valid Unicode character"),
    b'["\\uD800\\u0041"]': parse_error("\\uD800 is not a valid Unicode character"),
    b'["\\udc00"]': parse_error("\\udc00 is not a valid Unicode character"),
    b'["\\ufffe"]': parse_error("\\ufffe is not a valid Unicode character"),
    b'["\\ud83f\\udfff"]': parse_error("\\ud83f\\udfff is not a valid Unicode character"),
    b"['\\ufdd0']": parse_error("\\ufdd0 is not a valid Unicode character"),
    b'["\xc3"]': parse_error(UTF8),
    b'["\xc0\xaf"]': parse_error(UTF8),
    b'["\xed\xa0\x80"]': parse_error(UTF8),
    b'["\xef\xb7\x90"]': parse_error(UTF8),
    b'["\xf0\x9f\xbf\xbf"]': parse_error(UTF8),
    b'["\xf4\x90\x80\x80"]': parse_error(UTF8),
    b'["\xff"]': [*stray('"\ufffd'), *parse_error(VALUE)],
    b'["\x80\\q"]': parse_error(UTF8),
    b'["\\q\x80"]': parse_error(ESCAPE),
    # garbage, and where it ends
    b"//\n": stray("/"),
    b"/ 5\t'x' \"y\" \n": stray("/"),
    b"/5,": [*stray("/"), *parse_error(VALUE)],
    b"/[]": [*stray("/"), []],
    b"\x00\x01": stray("", "\x01"),
    b"\xff\xfe\n": stray("\ufffd", "\ufffd"),
    b"\xef\xbb\xbf{}": [*stray("\ufffd"), {}],
    b'"\xc3\xa9\xe2\x82\x01\n': stray('"\u00e9\ufffd\x01'),
    # depth
    b"[" * (MAX_DEPTH + 1) + b"]\n": [DEPTH, *parse_error(VALUE)],
    b'{"a":' * (MAX_DEPTH + 1) + b"\xff\n": [DEPTH, "a", *parse_error(VALUE), *stray("\ufffd")],
}

VALUES: dict[bytes, object] = {
    b"{'execute':'it\\'s \"so\"'}": {"execute": 'it\'s "so"'},
    b'{"a":[true,false,null,{},[]]}': {"a": [True, False, None, {}, []]},
    b'["\\"\\\'\\\\\\/\\b\\f\\n\\r\\t"]': ["\"'\\/\b\f\n\r\t"],
    b'["\\u00e9\\ud83d\\ude00", "\xc3\xa9\xf0\x9f\x98\x80"]': ["\u00e9\U0001f600"] * 2,
    b"['\\u0041\\ud83d\\ude00\\u00e9']": ["A\U0001f600\u00e9"],
    b'["\\u0000", "\xc0\x80\\n", "\x7f"]': ["\0", "\0\n", "\x7f"],
    b"[0, -0, 12, -0.0, 1.50, 1e2, 2E-2, 0.5]": [0, 0, 12, -0.0, 1.5, 100.0, 0.02, 0.5],
    b'{"n":9223372036854775807}': {"n": 2**63 - 1},
    b'{"n":18446744073709551615}': {"n": 2**64 - 1},
    b'{"n":18446744073709551616}': {"n": 2.0**64},
    b'{"n":-9223372036854775808}': {"n": -(2**63)},
    b'{"n":-9223372036854775809}': {"n": -(2.0**63)},
    b'{"n":' + b"1" * 5000 + b"}": {"n": float("inf")},
    b'{"n":[1e999,-1e999]}': {"n": [float("inf"), float("-inf")]},
}


def by_bytes(data: bytes, decoder: Decoder | None = None) -> list[object]:
    """Decode with the automaton alone: a single byte is never a whole object."""
    decoder = decoder or Decoder()
    return [item for byte in data for item in decoder.feed(bytes([byte]))]


class TestMalformedInput:
    @pytest.mark.parametrize("data", MALFORMED, ids=lambda data: repr(data[:30]))
    def test_gets_qemus_words_and_the_next_good_one_is_answered(self, data: bytes) -> None:
        expected = [*MALFORMED[data], NEXT]
        assert Decoder().feed(data + GOOD) == expected
        assert by_bytes(data + GOOD) == expected

    @pytest.mark.parametrize("byte", [b"\xff", b"\xfe", b"\x01"])
    def test_a_byte_that_no_json_contains_ends_half_a_message(self, byte: bytes) -> None:
        decoder = Decoder()
        assert decoder.feed(b'{"execute":"quit","id":["half') == []
        assert len(decoder.feed(byte + b"\n")) == 1
        assert decoder.held == 0
        assert decoder.feed(GOOD) == [NEXT]


class TestValues:
    @pytest.mark.parametrize("data", VALUES, ids=lambda data: repr(data[:30]))
    def test_are_read_as_qemu_reads_them(self, data: bytes) -> None:
        # repr, for 1 is neither 1.0 nor True
        assert repr(Decoder().feed(data)) == repr([VALUES[data]]) == repr(by_bytes(data))

    def test_any_json_value_is_a_message(self) -> None:
        assert Decoder().feed(b'[] "x" null true 5 ') == [[], "x", None, True, 5]

    def test_deepest_nesting_is_accepted(self) -> None:
        data = b'{"a":' * (MAX_DEPTH - 1) + b"[]" + b"}" * (MAX_DEPTH - 1)
        (message,) = Decoder().feed(data + b" ")
        assert encode(message) == data.replace(b":", b": ") + b"\r\n"

    def test_brackets_in_a_string_are_no_depth(self) -> None:
        text = "[{" * MAX_DEPTH
        assert Decoder().feed(json.dumps({"id": text}).encode()) == [{"id": text}]


class TestStreaming:
    def test_a_message_needs_no_newline(self) -> None:
        assert Decoder().feed(GOOD) == [NEXT]

    def test_several_in_one_packet(self) -> None:
        assert Decoder().feed(GOOD + GOOD + b"\r\n \t" + GOOD) == [NEXT] * 3

    def test_blanks_alone_are_nothing(self) -> None:
        assert Decoder().feed(b"\r\n \t\n") == []

    def test_one_over_many_packets_and_the_rest_of_the_packet(self) -> None:
        decoder = Decoder()
        assert decoder.feed(GOOD[:10]) == []
        assert decoder.held == 10
        assert decoder.feed(GOOD[10:] + GOOD[:5]) == [NEXT]
        assert decoder.feed(GOOD[5:]) == [NEXT]
        assert decoder.held == 0

    def test_a_number_outside_brackets_waits_for_what_follows(self) -> None:
        decoder = Decoder()
        assert decoder.feed(b"12") == []
        assert decoder.feed(b"3") == []
        assert decoder.feed(b"\n") == [123]

    def test_ten_thousand_in_one_piece(self) -> None:
        assert Decoder().feed(GOOD * 10_000) == [NEXT] * 10_000


_FRAGMENTS = (
    list(MALFORMED)[:-2]
    + list(VALUES)
    + [GOOD, b"{", b"}", b"[", b"]", b'"', b"'", b"\\", b"\n", b"\xff", b"0", b"1e5", b"\\ud800", b'{"a":', b"/"]
)
# Without the characters that QEMU refuses and the standard library does not.
_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=20)
_STREAMS = st.lists(st.sampled_from(_FRAGMENTS) | st.binary(max_size=4), max_size=8).map(b"".join)


class TestBothWaysAgree:
    @given(_STREAMS, st.lists(st.integers(1, 40), min_size=1))
    def test_however_the_bytes_are_cut(self, data: bytes, cuts: list[int]) -> None:
        decoder, pieces, pos = Decoder(), [], 0
        while pos < len(data):
            cut = cuts[len(pieces) % len(cuts)]
            pieces.append(data[pos : pos + cut])
            pos += cut
        items = [item for piece in pieces for item in decoder.feed(piece)]
        whole = Decoder()
        assert repr(items) == repr(by_bytes(data)) == repr(whole.feed(data))
        assert decoder.held == whole.held

    @given(_STREAMS, st.integers(2, 40), st.integers(1, 12), st.integers(1, 4))
    def test_at_any_limit(self, data: bytes, max_bytes: int, max_tokens: int, max_depth: int) -> None:
        def decoder() -> Decoder:
            return Decoder(max_bytes=max_bytes, max_tokens=max_tokens, max_depth=max_depth)

        assert repr(decoder().feed(data)) == repr(by_bytes(data, decoder()))

    @given(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**64 - 1)
            | st.floats(allow_nan=False, allow_infinity=False)
            | _TEXT,
            lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_TEXT, inner, max_size=5),
            max_leaves=20,
        )
    )
    def test_what_the_standard_library_writes_is_read_back(self, value: object) -> None:
        data = json.dumps({"id": value})
        assert repr(Decoder().feed(data.encode())) == repr([{"id": value}]) == repr(by_bytes(data.encode()))


class TestLimits:
    def test_a_long_string_is_given_up_and_the_next_good_one_is_answered(self) -> None:
        decoder = Decoder(max_bytes=100)
        assert decoder.feed(b'"' + b"a" * 98 + b'"') == [ParseFailure("JSON token size limit exceeded")]
        assert decoder.feed(b'"' + b"a" * 97 + b'"') == ["a" * 97]
        assert decoder.feed(b'"' + b"a" * 100) == [ParseFailure("JSON token size limit exceeded")]
        assert decoder.held == 0
        assert decoder.feed(GOOD) == [NEXT]

    def test_the_tokens_of_a_message_are_counted_together_and_blanks_are_free(self) -> None:
        decoder = Decoder(max_bytes=100)
        assert decoder.feed(b"[" + b'"aaaaaaaa",' * 9) == [ParseFailure("JSON token size limit exceeded")]
        decoder = Decoder(max_bytes=100)
        assert decoder.feed(b"[" + b'"aaaaaaaa"' + b" " * 1000 + b"]") == [["aaaaaaaa"]]

    def test_too_many_tokens(self) -> None:
        decoder = Decoder(max_tokens=5)
        assert decoder.feed(b"[1,2]") == [[1, 2]]
        assert decoder.feed(b"[1,2,3") == []
        assert decoder.feed(b"]") == [ParseFailure("JSON token count limit exceeded"), *parse_error(VALUE)]
        assert decoder.feed(b'{"a":0}') == [{"a": 0}]

    def test_memory_is_bounded_whatever_comes(self) -> None:
        decoder = Decoder(max_bytes=1 << 18, max_tokens=1 << 11)
        chunks = [b"[" * 1024, b'"' + b"\xc3\xa9" * 8192, b"[[]," * 256, b"1" * 16384, b" " * 16384, b'{"a":' * 200]
        tracemalloc.start()
        try:
            for chunk in chunks:
                for _ in range(20):
                    decoder.feed(chunk)
                decoder.feed(b"\xff\n")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 3 << 20
        assert decoder.feed(GOOD) == [NEXT]

    def test_time_grows_with_the_bytes_not_with_their_square(self) -> None:
        def seconds(size: int) -> float:
            data, decoder = b'{"id":"' + b"a" * size + b'"}', Decoder(max_bytes=8 << 20)
            began = time.process_time()
            items = [item for pos in range(0, len(data), 20) for item in decoder.feed(data[pos : pos + 20])]
            assert items == [{"id": "a" * size}]
            return time.process_time() - began

        small = min(seconds(100_000) for _ in range(3))
        assert min(seconds(1_600_000) for _ in range(2)) < 80 * small  # 16 when linear, 256 when quadratic


class TestEncoding:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ({"actual": 536870912}, '{"actual": 536870912}'),
            ([1, True, None, "x", {}, []], '[1, true, null, "x", {}, []]'),
            ((1.5, {"b": 1, "a": [2.0]}, "1. [1.5"), '[1.5, {"b": 1, "a": [2]}, "1. [1.5"]'),
            ("1.5e-3 [1.5", '"1.5e-3 [1.5"'),
            (18446744073709551615, "18446744073709551615"),
            (0.1, "0.10000000000000001"),
            (1.0, "1"),
            (-0.0, "-0"),
            (1e22, "1e+22"),
            (5e-7, "4.9999999999999998e-07"),
            (float("inf"), "inf"),
            ([float("-inf"), {}], "[-inf, {}]"),
            ("\u00e9\U0001f600\x1f\x7f\0", r'"\u00E9\uD83D\uDE00\u001F\u007F\u0000"'),
            ("\"\\/\b\f\n\r\t'", r'"\"\\/\b\f\n\r\t' + "'\""),
            ("\\u00e9\\", r'"\\u00e9\\"'),
            ("\ud800\ufffe\U0001ffff\ufdd0", r'"\uFFFD\uFFFD\uFFFD\uFFFD"'),
            ({"\u00e9": 1.5, "\x7f": ""}, r'{"\u00E9": 1.5, "\u007F": ""}'),
        ],
    )
    def test_writes_what_qemu_writes(self, value: object, text: str) -> None:
        assert encode({"return": value, "id": 7}) == f'{{"return": {text}, "id": 7}}\r\n'.encode("ascii")

    @given(st.dictionaries(st.text(), st.lists(st.integers(-(2**63), 2**64 - 1) | st.text() | st.booleans())))
    def test_with_and_without_the_c_encoder_is_the_same(self, value: dict[str, object]) -> None:
        with_float = encode({"id": value, "x": 1.5})
        assert with_float.replace(b', "x": 1.5', b"") == encode({"id": value})

    def test_refuses_what_has_no_json_form(self) -> None:
        with pytest.raises(TypeError):
            encode({"return": object()})
        with pytest.raises(TypeError):
            encode({"return": [1.5, object()]})

    def test_refuses_a_message_that_contains_itself(self) -> None:
        message: dict[str, object] = {}
        message["self"] = message
        with pytest.raises(ValueError, match="nested too deeply"):
            encode(message)


def test_importing_the_codec_stays_cheap() -> None:
    code = (
        "import sys, hmp.qjson.codec; print(sorted({'asyncio', 'dataclasses', 'socket', 'typing'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-S", "-c", code], text=True).strip() == "[]"


def test_failures_of_the_same_words_are_equal() -> None:
    assert ParseFailure("a") == ParseFailure("a") != ParseFailure("b")
    assert len({ParseFailure("a"), ParseFailure("a")}) == 1
    assert repr(ParseFailure("a")) == "ParseFailure(desc='a')"
