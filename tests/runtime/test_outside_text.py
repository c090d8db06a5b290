"""JSON and YAML that somebody else wrote: whatever is wrong with it is one error of fusery's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.config.file import read_run_file
from fusery.core.tokens import ByteTokenizer
from fusery.evaluation.report import report
from fusery.hops.store.store import Store
from fusery.models.model_files import read_config
from fusery.registry.redaction import published_yaml
from fusery.registry.stated_licence import licences_in_card
from fusery.runtime.errors import FuseryError
from fusery.runtime.text.json import MOST_DEPTH, NotJson, parse_json, read_json_object
from fusery.runtime.text.yaml import NotYaml, parse_yaml

DEEP = 100_000
BAD_JSON = {
    "empty": b"",
    "cut off": b'{"a": [1, 2',
    "deep lists": b"[" * DEEP,
    "deep lists that end": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "just too deep": b"[" * (MOST_DEPTH + 1) + b"]" * (MOST_DEPTH + 1),
    "half a pair": b'{"a": "\\ud800"}',
    "half a pair as a key": b'{"\\uDFFF": 1}',
    "huge integer": b'{"a": ' + b"9" * 5000 + b"}",
    "large integer": b"[-" + b"9" * 50 + b"]",
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "surrogate in UTF-8": b'{"a": "\xed\xa0\x80"}',
    "control character": b'{"a": "\x01"}',
    "two values": b"{} {}",
    "NUL": b"\x00",
}
BAD_YAML = {
    "deep flow": b"[" * DEEP,
    "deep flow that ends": b"[" * 5000 + b"]" * 5000,
    "deep mapping": b"".join(b" " * i + b"a:\n" for i in range(300)),
    "laughs": b"a: &a [x, x, x, x, x, x, x, x, x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (i, i, b", ".join([b"*%c" % (i - 1)] * 9)) for i in range(98, 112)),
    "alias of itself": b"a: &a [*a]\n",
    "alias of itself in a mapping": b"a: &a {b: *a}\n",
    "key twice": b"name: x\nseed: 1\nname: y\n",
    "inner key twice": b"a:\n  b: 1\n  b: 2\n",
    "huge integer": b"a: " + b"9" * 5000 + b"\n",
    "large integer": b"a: " + b"9" * 50 + b"\n",
    "tagged date": b"a: !!timestamp nonsense\n",
    "tagged date out of range": b"a: !!timestamp 2024-13-45\n",
    "tagged integer": b"a: !!int ''\n",
    "tagged float": b"a: !!float one\n",
    "tagged boolean": b"a: !!bool maybe\n",
    "an object of Python": b"a: !!python/object/apply:os.system [ls]\n",
    "half a pair": b'a: "\\ud800"\n',
    "not UTF-8": b"a: \xff\n",
    "control character": b"a: \x01\n",
    "list as a key": b"? [1]\n: 2\n",
    "two documents": b"a: 1\n---\nb: 2\n",
}


@pytest.mark.parametrize("content", BAD_JSON.values(), ids=list(BAD_JSON))
def test_json_that_is_wrong_is_one_error_in_every_reader(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    readers: list[Callable[[], object]] = [
        lambda: parse_json(content),
        lambda: read_json_object(path),
        lambda: read_config(tmp_path),
        lambda: report.read(path),
        lambda: ByteTokenizer.from_definition(content.decode("latin-1")),
    ]
    if not content.isascii():
        # Of a text that is decoded already, its bytes are no matter.
        readers.pop()
    for reader in readers:
        with pytest.raises(FuseryError) as raised:
            reader()
        assert len(str(raised.value)) < 600


@pytest.mark.parametrize("content", BAD_JSON.values(), ids=list(BAD_JSON))
def test_an_entry_or_a_note_that_is_no_json_counts_as_none(tmp_path: Path, content: bytes) -> None:
    store = Store(str(tmp_path))
    store.publish("corpora/a.parquet", b"whole")
    (tmp_path / "corpora/a.parquet.entry.json").write_bytes(content)
    (tmp_path / "note.json").write_bytes(content)
    assert store.find("corpora/a.parquet") is None
    assert not store.is_whole("corpora/a.parquet")
    with pytest.raises(FuseryError, match=r"note note\.json in the store .* is damaged"):
        store.read_note("note.json")
    assert store.publish("corpora/a.parquet", b"whole").size == 5


@pytest.mark.parametrize("wrong", [{"size": "5"}, {"size": 5.0}, {"facts": []}, {"facts": None}, {"sha256": 1}])
def test_an_entry_with_a_right_seal_and_wrong_kinds_counts_as_none(tmp_path: Path, wrong: dict[str, object]) -> None:
    from dataclasses import asdict

    from fusery.hops.store.store import seal

    store = Store(str(tmp_path))
    entry = store.publish("a", b"whole")
    (tmp_path / "a.entry.json").write_bytes(seal(asdict(entry) | wrong))
    assert store.find("a") is None


@pytest.mark.parametrize("content", BAD_YAML.values(), ids=list(BAD_YAML))
def test_yaml_that_is_wrong_is_one_error_in_every_reader(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(NotYaml):
        parse_yaml(content)
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(FuseryError, match=r"run\.yaml") as raised:
        read_run_file(path)
    assert len(str(raised.value)) < 600
    text = content.decode("utf-8", "replace")
    assert licences_in_card(f"---\nlicense: mit\n{text}\n---\n") in ((), ("mit",))
    with pytest.raises(FuseryError):
        published_yaml(content.decode("latin-1") + ("" if content.isascii() else "\x01"))


def test_a_key_that_stands_twice_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: x\ntraining:\n  epochs: 2\nseed: 0\ntraining:\n  epochs: 3\n")
    with pytest.raises(FuseryError, match=r"run\.yaml:5: not YAML: the key 'training' stands twice"):
        read_run_file(path)


def test_what_is_unusual_and_right_is_read() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": NaN, "b": Infinity, "a": 1, "c": "\\ud83d\\ude00"}')["a"] == 1
    assert parse_json("[" * MOST_DEPTH + "]" * MOST_DEPTH)
    assert parse_json('{"a": "\\ud800", "n": ' + "9" * 60 + "}", lenient=True)["a"] == "\ud800"
    assert parse_yaml(b"\xef\xbb\xbfa: 2024-13-45\nb: 2024-01-01\n").value == {"a": "2024-13-45", "b": "2024-01-01"}
    merged = "base: &b {x: 1, y: 2}\none: &o\n  <<: *b\n  x: 3\ntwo:\n  <<: *o\n  y: 4\n"
    assert parse_yaml(merged).value["two"] == {"x": 3, "y": 4}
    assert parse_yaml("").value is None


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(value=values)
def test_what_json_writes_is_read_back(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert parse_json(text) == value
        assert parse_json(text.encode()) == value


@given(content=st.binary(max_size=60) | st.text("[]{}:,&*!-?|>'\"#%@`ab1 \n\t", max_size=60).map(str.encode))
def test_no_bytes_at_all_raise_anything_else(content: bytes) -> None:
    for parse, wrong in ((parse_json, NotJson), (parse_yaml, NotYaml)):
        try:
            parse(content)
        except wrong:
            continue
