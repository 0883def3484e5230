import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagewright.errors import IntegrityError
from stagewright.image.gojson import Fields, dumps, loads_object

_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


@given(_values)
def test_what_is_written_reads_back(value: object) -> None:
    assert json.loads(dumps(value)) == value
    assert json.loads(dumps(value, indent=True)) == value


@given(_values)
def test_no_character_that_html_minds_is_left(value: object) -> None:
    text = dumps(value).decode()
    assert not set("<>&\u2028\u2029") & set(text)


def test_strings_are_escaped_as_go_escapes_them() -> None:
    assert dumps('<a href="x">&\u2028\u2029é\x01\n\t\b\x7f') == (
        rb'"\u003ca href=\"x\"\u003e\u0026\u2028\u2029' + "é".encode() + b'\\u0001\\n\\t\\b\x7f"'
    )


def test_bytes_that_are_not_utf8_become_the_replacement_character() -> None:
    assert dumps(b"a\xffb".decode(errors="surrogateescape")) == rb'"a\ufffdb"'


def test_indented_documents_look_like_those_of_marshal_indent() -> None:
    assert dumps({"a": [1, {}], "b": []}, indent=True) == b'{\n  "a": [\n    1,\n    {}\n  ],\n  "b": []\n}'


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{", b"\xff", b'{"a": NaN}', b'{"a":' * 100_000, b'{"a":' + b"9" * 5000 + b"}"]
)
def test_a_bad_document_is_an_integrity_error(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^thing "):
        loads_object(data, "thing")


def test_null_and_absent_are_zero_values() -> None:
    for fields in (Fields({}, "x"), Fields(dict.fromkeys("abcdefgh"), "x")):
        assert fields.string("a") == ""
        assert fields.integer("b") == 0
        assert fields.boolean("c") is False
        assert fields.strings("d") == ()
        assert fields.string_map("e") == {}
        assert fields.set_of_names("f") == frozenset()
        assert fields.objects("g") == []
        assert fields.object("h") is None
        assert "a" not in fields


@pytest.mark.parametrize(
    ("reader", "value"),
    [
        ("string", 1),
        ("integer", "1"),
        ("integer", True),
        ("integer", 1.0),
        ("integer", 2**63),
        ("boolean", 0),
        ("strings", "a"),
        ("strings", ["a", None]),
        ("string_map", ["a"]),
        ("string_map", {"a": 1}),
        ("set_of_names", ["80/tcp"]),
        ("objects", {}),
        ("objects", [1]),
        ("object", []),
    ],
)
def test_a_value_of_another_type_is_named(reader: str, value: object) -> None:
    with pytest.raises(IntegrityError, match=r"^doc: key"):
        getattr(Fields({"key": value}, "doc"), reader)("key")
