"""BTF types as Python values and as text."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.btf_types import Types

from shmbpf.errors import BtfError, ShmbpfError
from shmbpf.maps.codec import BytesCodec, NodeCodec, codec_of_type, codec_of_word, decode, encode, parse_text
from shmbpf.maps.layout import compile_type, find_part
from shmbpf.maps.text import format_text, parse_tree

T = Types()
COLOR = T.enum("color", {"RED": 0, "GREEN": 5, "BLUE": -2})
WIDE = T.enum("wide", {"HUGE": 0x1234567890}, size=8)
BE32 = T.typedef("__be32", T.u32)
MAC = T.typedef("mac_t", T.array(T.u8, 6))
IP6 = T.array(T.u8, 16)
FLOW = T.struct("flow", ("addr", BE32, 0), ("port", T.u16, 4), ("proto", T.u8, 6), size=8)
CHARS = T.array(T.char, 8)
FLOAT = T.real("float", 4)
POINTER = T.pointer(0)
CHOICE = T.struct("", ("word", T.u32, 0), ("bytes", T.array(T.u8, 4), 0), union=True)
DEEP = T.struct("deep", ("n", T.s64, 0), ("name", CHARS, 8), ("on", T.bool, 16), ("", CHOICE, 20), ("flow", FLOW, 24),
                ("color", COLOR, 32), ("grid", T.array(T.array(T.u16, 2), 2), 36), ("p", POINTER, 48), ("wide", WIDE, 56),
                ("ratio", T.real("double", 8), 64), size=72)  # fmt: skip
BITS = T.struct("bits", ("low", T.u32, 0, 3), ("high", T.u32, 3, 13), ("sign", T.s32, 16, 5), size=4)
BTF = T.btf()

DEEP_VALUE = {
    "n": -7, "name": "héy", "on": True, "word": 0x04030201, "bytes": [1, 2, 3, 4], "flow": {"addr": 1, "port": 2, "proto": 6},
    "color": "GREEN", "grid": [[1, 2], [3, 4]], "p": 0, "wide": "HUGE", "ratio": 0.5,
}  # fmt: skip


def test_a_nested_struct_survives_encoding_and_decoding():
    data = encode(BTF, DEEP, DEEP_VALUE)
    assert len(data) == 72
    assert decode(BTF, DEEP, data) == DEEP_VALUE


def test_offsets_are_those_of_the_type():
    data = encode(BTF, FLOW, {"port": 0x1234, "proto": 17})
    assert data == struct.pack("<IHBx", 0, 0x1234, 17)


def test_missing_fields_are_zero():
    assert encode(BTF, FLOW, {}) == bytes(8)


def test_bit_fields_keep_their_neighbours():
    data = encode(BTF, BITS, {"low": 5, "high": 0x1F44, "sign": -3})
    assert int.from_bytes(data, "little") == 5 | 0x1F44 << 3 | (-3 & 31) << 16
    assert decode(BTF, BITS, data) == {"low": 5, "high": 0x1F44, "sign": -3}


def test_one_member_of_a_union_is_enough():
    assert decode(BTF, CHOICE, encode(BTF, CHOICE, {"bytes": [1, 0, 0, 0]})) == {"word": 1, "bytes": [1, 0, 0, 0]}


def test_members_of_a_union_may_not_contradict_each_other():
    with pytest.raises(ShmbpfError, match="overlaps another member of its union"):
        encode(BTF, CHOICE, {"word": 1, "bytes": [2, 0, 0, 0]})


def test_enums_take_names_and_numbers_and_show_names():
    assert encode(BTF, COLOR, "BLUE") == encode(BTF, COLOR, -2) == struct.pack("<i", -2)
    assert decode(BTF, COLOR, struct.pack("<i", -2)) == "BLUE"
    assert decode(BTF, COLOR, struct.pack("<i", 77)) == 77


@pytest.mark.parametrize(
    ("type_id", "value", "message"),
    [
        (T.u8, 256, r"value: expected 0 to 255 \(unsigned char\), got 256"),
        (T.u32, -1, "expected 0 to 4294967295"),
        (T.s32, 1 << 31, "expected -2147483648 to 2147483647"),
        (T.u32, "x", r"expected a number \(unsigned int\), got 'x'"),
        (T.u32, 1.5, "expected a number"),
        (T.bool, 2, "expected true or false, got 2"),
        (COLOR, "PINK", r"expected one of RED, GREEN, BLUE \(enum color\), got 'PINK'"),
        (FLOW, {"prt": 1}, r"expected a field of struct flow \(addr, port, proto\), got 'prt'"),
        (FLOW, {"port": 70000}, "value.port: expected 0 to 65535"),
        (FLOW, 5, r"expected \{field: value\} of struct flow"),
        (FLOW, b"abc", "expected 8 bytes, got 3"),
        (MAC, [1, 2], "expected a list of 6"),
        (MAC, [1, 2, 3, 4, 5, 300], r"value\[5\]: expected 0 to 255"),
        (DEEP, {"flow": {"port": -1}}, "value.flow.port: expected 0 to 65535"),
        (DEEP, {"name": "much too long"}, "value.name: expected text of at most 8 bytes"),
        (BITS, {"low": 8}, r"value.low: expected 0 to 7 \(3 bits\), got 8"),
        (BITS, {"sign": 16}, "value.sign: expected -16 to 15"),
    ],
)
def test_refused_values_are_named(type_id, value, message):
    with pytest.raises(ShmbpfError, match=message):
        encode(BTF, type_id, value)


def test_bytes_are_always_taken():
    assert encode(BTF, FLOW, bytes(range(8))) == bytes(range(8))
    assert encode(BTF, DEEP, {"flow": bytes(range(8))})[24:32] == bytes(range(8))


def test_wrong_length_is_refused_when_decoding():
    with pytest.raises(ShmbpfError, match="expected 8 bytes, got 7"):
        decode(BTF, FLOW, bytes(7))


def test_text_is_cut_at_its_first_nul_and_keeps_strange_bytes():
    assert decode(BTF, CHARS, b"ab\0zz\0\0\0") == "ab"
    odd = decode(BTF, CHARS, b"\xff\xfe\0\0\0\0\0\0")
    assert encode(BTF, CHARS, odd) == b"\xff\xfe\0\0\0\0\0\0"


# -- types that lie --


def test_member_outside_of_its_struct_is_refused():
    types = Types()
    bad = types.struct("bad", ("far", types.u64, 100), size=8)
    with pytest.raises(BtfError, match="'far' lies outside of struct 'bad'"):
        compile_type(types.btf(), bad)


def test_array_of_nothing_does_not_take_all_memory():
    types = Types()
    empty = types.struct("empty", size=0)
    many = types.array(empty, 4_000_000_000)
    with pytest.raises(BtfError, match="array of 4000000000 elements of 0 bytes"):
        compile_type(types.btf(), many)


def test_type_without_a_value_is_seen_as_bytes():
    assert isinstance(codec_of_type(BTF, 0, 4), BytesCodec)
    assert isinstance(codec_of_type(BTF, FLOW, 12), BytesCodec), "a type of another size than the map's says nothing"
    assert isinstance(codec_of_type(BTF, len(BTF), 8), BytesCodec), "an id the blob does not have"


def test_data_section_may_be_shorter_than_the_value():
    types = Types()
    section = types.section(".data", ("a", types.u32, 0), ("b", types.u16, 8), size=0)
    codec = codec_of_type(types.btf(), section, 16)
    assert codec.encode({"a": 1, "b": 2}) == struct.pack("<I4xH6x", 1, 2)
    assert codec.decode(struct.pack("<I4xH6x", 1, 2)) == {"a": 1, "b": 2}


# -- text --


@pytest.mark.parametrize(
    ("type_id", "text", "data"),
    [
        (T.u32, "42", struct.pack("<I", 42)),
        (T.u32, "0x2a", struct.pack("<I", 42)),
        (T.s32, "-1", b"\xff" * 4),
        (T.u32, "10.0.0.1", bytes([10, 0, 0, 1])),
        (BE32, " 192.168.0.1 ", bytes([192, 168, 0, 1])),
        (MAC, "02:00:00:00:00:0a", bytes([2, 0, 0, 0, 0, 10])),
        (IP6, "fe80::1", bytes.fromhex("fe80" + "00" * 13 + "01")),
        (MAC, "[1, 2, 3, 4, 5, 0x6]", bytes([1, 2, 3, 4, 5, 6])),
        (COLOR, "GREEN", struct.pack("<i", 5)),
        (COLOR, "7", struct.pack("<i", 7)),
        (T.bool, "true", b"\1"),
        (T.char, "A", b"A"),
        (FLOW, "{addr: 10.0.0.1, port: 53, proto: 17}", bytes([10, 0, 0, 1, 53, 0, 17, 0])),
        (FLOW, '{"port":53}', bytes([0, 0, 0, 0, 53, 0, 0, 0])),
        (FLOW, "{}", bytes(8)),
        (DEEP, "{name: hello, flow: {port: 1}, grid: [[1, 2], [3, 4]], color: RED, ratio: 0.5}",
         encode(BTF, DEEP, {"name": "hello", "flow": {"port": 1}, "grid": [[1, 2], [3, 4]], "ratio": 0.5})),
        (DEEP, '{name: "a, b"}', encode(BTF, DEEP, {"name": "a, b"})),
        (FLOAT, "1.5", struct.pack("<f", 1.5)),
    ],
)  # fmt: skip
def test_text_means_bytes(type_id, text, data):
    assert parse_text(BTF, type_id, text) == data


@pytest.mark.parametrize(
    ("type_id", "text", "message"),
    [
        (T.u32, "zz", r"expected a number or an IPv4 address \(unsigned int\), got 'zz'"),
        (T.u16, "10.0.0.1", "expected a number"),
        (T.u32, "010", "expected a number"),
        (T.u32, "", "got ''"),
        (T.u32, "1 2", "expected a number"),
        (COLOR, "PINK", "expected a number or one of RED, GREEN, BLUE"),
        (MAC, "hello", "expected a MAC address, a list of 6, got 'hello'"),
        (FLOW, "5", r"expected \{field: value\} of struct flow \(addr, port, proto\)"),
        (FLOW, "{port 5}", "expected `field: value` or `}`, got 'port 5}'"),
        (FLOW, "{port: 5", "expected `,` or `}`, got the end of the text"),
        (FLOW, "{port: 5} x", "'x' is left over"),
        (FLOW, "{port: 5, port: 6}", "field 'port' is given twice"),
        (FLOW, "{prt: 5}", r"expected a field of struct flow \(addr, port, proto\), got 'prt'"),
        (FLOW, "{port: }", "expected a value, got '}'"),
        (FLOW, "{port: [1]}", "value.port: expected unsigned short"),
        (FLOW, "[" * 100, "nested deeper than"),
        (DEEP, '{name: "x}', "expected a string in double quotes"),
    ],
)
def test_text_without_meaning_is_refused(type_id, text, message):
    with pytest.raises(ShmbpfError, match=message):
        parse_text(BTF, type_id, text)


def test_text_form_is_one_line_and_can_be_read_back():
    data = encode(BTF, DEEP, DEEP_VALUE | {"name": "a\nb:"})
    text = NodeCodec(compile_type(BTF, DEEP)).format(data)
    assert "\n" not in text
    assert 'name: "a\\nb:"' in text and "color: GREEN" in text and "grid: [[1, 2], [3, 4]]" in text
    assert parse_text(BTF, DEEP, text) == data


@given(st.binary(min_size=8, max_size=8))
def test_any_flow_survives_text(data):
    text = NodeCodec(compile_type(BTF, FLOW)).format(data)
    assert parse_text(BTF, FLOW, text)[:7] == data[:7]


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**13 - 1), st.integers(-16, 15))
def test_any_bit_fields_survive(low, high, sign):
    value = {"low": low % 8, "high": high, "sign": sign}
    assert decode(BTF, BITS, encode(BTF, BITS, value)) == value


@settings(max_examples=300)
@given(st.text(alphabet="{}[],:\"' ab1.-\\", max_size=30))
def test_no_text_breaks_the_reader(text):
    try:
        parse_tree(text)
        parse_text(BTF, DEEP, text)
    except ShmbpfError:
        pass


# -- type words --


@pytest.mark.parametrize(
    ("word", "size", "text", "data"),
    [
        ("u8", 1, "255", b"\xff"),
        ("s16", 2, "-2", b"\xfe\xff"),
        ("u64", 8, "0xffffffffffffffff", b"\xff" * 8),
        ("be16", 2, "80", b"\x00\x50"),
        ("be32", 4, "1", b"\0\0\0\1"),
        ("ipv4", 4, "1.2.3.4", b"\1\2\3\4"),
        ("ipv6", 16, "::1", bytes(15) + b"\1"),
        ("mac", 6, "aa:bb:cc:dd:ee:ff", bytes.fromhex("aabbccddeeff")),
        ("hex", 3, "0a0b0c", b"\x0a\x0b\x0c"),
        ("text", 5, "abc", b"abc\0\0"),
    ],
)
def test_type_words_read_and_write(word, size, text, data):
    codec = codec_of_word(word, size, "key")
    assert codec.parse(text) == data
    assert codec.parse(codec.format(data)) == data


@pytest.mark.parametrize(
    ("word", "size", "message"),
    [("u7", 1, "key type 'u7': expected one of u8, "), ("u32", 8, "key type u32 has 4 bytes, the map's keys have 8"), ("mac", 4, "mac has 6 bytes")],
)
def test_type_words_must_fit(word, size, message):
    with pytest.raises(ShmbpfError, match=message):
        codec_of_word(word, size, "key")


@pytest.mark.parametrize("word", ["be16", "u16", "s16"])
def test_numbers_out_of_range_are_refused(word):
    with pytest.raises(ShmbpfError, match="expected"):
        codec_of_word(word, 2, "key").parse("70000")


@pytest.mark.parametrize(("word", "size", "text"), [("ipv4", 4, "1.2.3"), ("ipv6", 16, "1.2.3.4"), ("mac", 6, "1.2.3.4"), ("hex", 2, "zz"), ("hex", 2, "01")])
def test_wrong_addresses_are_refused(word, size, text):
    with pytest.raises(ShmbpfError, match="expected"):
        codec_of_word(word, size, "key").parse(text)


# -- parts --


def test_parts_of_a_value_have_offsets():
    node = compile_type(BTF, DEEP)
    assert find_part(node, "flow.port")[0] == 28
    assert find_part(node, "grid[1][0]")[0] == 40
    with pytest.raises(ShmbpfError, match="struct flow has addr, port, proto, not 'x'"):
        find_part(node, "flow.x")
    with pytest.raises(ShmbpfError, match=r"has \[0\] to \[1\], not '\[2\]'"):
        find_part(node, "grid[2]")


def test_plain_forms():
    assert [format_text(value) for value in (True, 1.5, b"\x01", "a b", ["a,b", "c d"], {"a": [1]})] == [
        "true", "1.5", "01", "a b", '["a,b", c d]', "{a: [1]}",
    ]  # fmt: skip
