"""Published tokenizers as the benchmarks build them: the builders on small made vocabularies, the fetched ones on text.

The second part needs `python bench/real_tokenizers.py` once, which downloads; without its files it skips.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import openllama_stand_in
import real_tokenizers
import table_texts
import tokenizer_table
from real_tokenizers import Pieces

from fusery.core import vocab
from fusery.core.alignment import boundary
from fusery.core.rules import Vocabulary
from fusery.core.tokens import ByteTokenizer, TokenizedText
from fusery.core.topk import VocabularyMap

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
FETCHED = tokenizer_table.TOKENIZERS
NASTY = [
    "👨‍👩‍👧‍👦 family 🏳️‍🌈 🇩🇪",
    "e\u0301 n\u0303o\u0302\u0323 \u212b",
    "東京 漢字かな 한국어",
    "a\r\nb\r\n\r\n",
    "\tx\t\ty",
    "a    b\n        c\n\n\n\nd",
    " leading",
    "  leading two",
    "trailing ",
    "trailing   ",
    "a\0b\0",
    "\ue000 \uf8ff \U000f0000",
    "<s> </s> <unk> <|endoftext|> <bos> <|im_start|>",
    "<0x41><0x0A>",
    "<table> </h1> [multimodal] <unused5>",
    "\u00a0x\u2003y\u200bz \ufeff",
    "עברית العربية ١٢٣",
    "ĠĊ Ġ",
    "don't 1234567890 \x7f\x80",
]
NOT_SPELLED = {
    # These normalise: NFC, or runs of spaces to one.
    "mpt": {NASTY[1]},
    "gpt-neox": {NASTY[1]},
    "qwen2": {NASTY[1]},
    "openllama-stand-in": {NASTY[5], NASTY[7], NASTY[8], NASTY[9]},
}


def llama_like() -> Pieces:
    """ab is better than bc; ' a' by its marker; every byte."""
    letters = ["▁", "a", "b", "c"]
    tokens = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "ab", "bc", "abc", "▁a", *letters]
    kinds = [UNKNOWN, CONTROL, *[BYTE] * 256, *[NORMAL] * 8]
    return Pieces(tokens, kinds, [0.0] * 258 + [-float(i) for i in range(8)])


def byte_level_like() -> Pieces:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|end|>", *alphabet, "ab", "Ġa", "  "]
    kinds = [CONTROL, *[NORMAL] * (len(alphabet) + 2), USER_DEFINED]
    return Pieces(tokens, kinds, merges=[("a", "b"), ("Ġ", "a")])


def test_merges_are_ordered_by_the_score_of_what_they_make() -> None:
    assert real_tokenizers.merges_by_score(llama_like()) == [
        ("a", "b"),
        ("b", "c"),
        ("ab", "c"),
        ("a", "bc"),
        ("▁", "a"),
    ]


def test_merges_of_user_defined_pieces_come_first() -> None:
    pieces = Pieces(["x", "y", "xy", "xx"], [NORMAL, NORMAL, NORMAL, USER_DEFINED], [-1.0, -2.0, -3.0, -9.0])
    assert real_tokenizers.merges_by_score(pieces) == [("x", "x"), ("x", "y")]


def test_a_sentencepiece_bpe_puts_a_space_first_and_falls_back_to_bytes() -> None:
    tokenizer = real_tokenizers.sentencepiece_bpe(llama_like(), real_tokenizers.prepended())
    assert tokenizer.encode("abc a", add_special_tokens=False).tokens == ["▁", "abc", "▁a"]
    assert tokenizer.encode("aé", add_special_tokens=False).tokens == ["▁a", "<0xC3>", "<0xA9>"]
    text = ByteTokenizer(tokenizer, [1]).tokenize("abcé")
    assert text.has_prefix_space
    assert text.byte_ends_T.tolist() == [0, 0, 3, 4, 5]


def test_a_byte_level_bpe_keeps_the_published_ids_of_special_and_added_tokens() -> None:
    pieces = byte_level_like()
    tokenizer = real_tokenizers.byte_level_bpe(pieces, pre_tokenizers.ByteLevel(add_prefix_space=False))
    assert [tokenizer.token_to_id(token) for token in pieces.tokens] == list(range(len(pieces.tokens)))
    assert tokenizer.encode("ab a  ab").tokens == ["ab", "Ġa", "  ", "ab"]
    assert ByteTokenizer(tokenizer).token_bytes[-3:] == [b"ab", b" a", b"  "]


def test_a_split_expression_is_the_one_that_is_given() -> None:
    tokenizer = real_tokenizers.byte_level_bpe(byte_level_like(), real_tokenizers.split_by(r"\p{N}|\P{N}+"))
    split = [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("ab12")]
    assert split == ["ab", "1", "2"]


def _message(fields: list[tuple[int, bytes | float | int]]) -> bytes:
    parts = []
    for number, value in fields:
        if isinstance(value, bytes):
            assert len(value) < 128
            parts.append(bytes([number << 3 | 2, len(value)]) + value)
        elif isinstance(value, float):
            parts.append(bytes([number << 3 | 5]) + struct.pack("<f", value))
        else:
            parts.append(bytes([number << 3, value & 0x7F | 0x80, value >> 7]))
    return b"".join(parts)


def test_a_sentencepiece_file_is_read_with_kinds_and_scores() -> None:
    pieces = [
        _message([(1, b"<unk>"), (2, 0.0), (3, UNKNOWN)]),
        _message([(1, "▁é".encode()), (2, -1.5)]),
    ]
    data = _message([(1, pieces[0]), (1, pieces[1]), (2, b"other"), (7, 300)])
    read = real_tokenizers.read_sentencepiece(data)
    assert read == Pieces(["<unk>", "▁é"], [UNKNOWN, NORMAL], [0.0, -1.5])


@given(st.text(alphabet="a. ", max_size=12))
def test_the_stand_in_merges_runs_of_spaces(text: str) -> None:
    words = text.split()
    merged = openllama_stand_in.collapsing().normalize_str(text)
    assert merged == ("▁" + "▁".join(words) if words else "")


def test_the_stand_in_keeps_newlines_and_tabs() -> None:
    assert openllama_stand_in.collapsing().normalize_str("a:\n    b\n\n\tc\n") == "▁a:\n▁b\n\n\tc\n"


@given(st.lists(st.text(alphabet="aé漢 ", max_size=9), max_size=9), st.integers(1, 30))
def test_documents_are_whole_lines_and_together_the_text(lines: list[str], min_bytes: int) -> None:
    text = "".join(f"{line}\n" for line in lines)
    documents = table_texts.documents(text, min_bytes)
    assert "".join(documents) == text
    assert all(document.endswith("\n") for document in documents)
    assert all(len(document.encode()) >= min_bytes for document in documents[:-1])


def test_a_sample_is_taken_from_all_over_the_text() -> None:
    assert table_texts.sample([str(i) * 10 for i in range(9)], 30) == ["0" * 10, "3" * 10, "6" * 10]


def test_paragraphs_lose_their_markup_and_line_breaks() -> None:
    body = "Use\n\t<code>apt-get</code> &amp; friends. " + "x" * 80
    page = f'<p>menu</p><div class="para">\n{body}</div><div class="para">short</div>'
    assert list(table_texts.paragraphs(page)) == ["Use apt-get & friends. " + "x" * 80]


def _text(ids: list[int], ends: list[int]) -> TokenizedText:
    return TokenizedText(np.asarray(ids), np.asarray(ends))


def test_next_tokens_are_compared_at_common_boundaries_only() -> None:
    # Common ends 1 and 3; after 1 the source says 1 and the target 1, after 3 the source says 0 and the target 2.
    source, target = _text([0, 1, 2, 0], [1, 2, 3, 5]), _text([0, 1, 2, 0], [1, 3, 4, 5])
    partition = VocabularyMap(np.asarray([0, 1, 2]), np.asarray([0, 1, 0]), 3)
    first_piece = VocabularyMap(np.asarray([0, 1, 2]), np.asarray([0, 1, 2]), 3)
    assert tokenizer_table.next_tokens(source, target, partition, first_piece) == (2, 1)


def test_cells_of_one_target_token_are_counted() -> None:
    assert tokenizer_table.single_token_cells(VocabularyMap(np.asarray([0]), np.asarray([0, 1, 1, -1, 3]), 4)) == 2


def test_counts_become_shares_of_positions_and_of_common_boundaries() -> None:
    counts = tokenizer_table.Counts(positions=8, boundary=6, mined=4, reference=2, common=4, agree=3, named=1)
    counts.add(tokenizer_table.Counts(positions=2, boundary=2))
    expected = {"boundary": 80.0, "mined": 40.0, "reference": 20.0, "same_cell": 75.0, "first_piece": 25.0}
    assert counts.shares() == expected
    assert set(tokenizer_table.Counts().shares().values()) == {0.0}


def test_mined_for_the_tokens_that_occur_is_mined_for_all_at_those() -> None:
    source = ByteTokenizer(real_tokenizers.sentencepiece_bpe(llama_like(), normalizers.Replace(" ", "▁")))
    target = ByteTokenizer(
        real_tokenizers.byte_level_bpe(byte_level_like(), pre_tokenizers.ByteLevel(add_prefix_space=False))
    )
    whole = vocab.build(Vocabulary.MIN_ED, source, target).cell_of_source_V
    used = set(range(2, source.size, 3))
    some = tokenizer_table.mined(source, target, used).cell_of_source_V
    assert some[sorted(used)].tolist() == whole[sorted(used)].tolist()
    assert (np.delete(some, sorted(used)) == -1).all()


def test_two_tokenizers_make_every_table() -> None:
    source = ByteTokenizer(real_tokenizers.sentencepiece_bpe(llama_like(), real_tokenizers.prepended()), [1], "spm")
    target = ByteTokenizer(
        real_tokenizers.byte_level_bpe(byte_level_like(), pre_tokenizers.ByteLevel(add_prefix_space=False)), [], "bytes"
    )
    documents = {"letters": ["abc a\n", "aé ab\n"]}
    (source_texts, source_facts), (target_texts, target_facts) = (
        tokenizer_table.tokenize(tokenizer, documents) for tokenizer in (source, target)
    )
    pair = tokenizer_table.measure_pair(source, target, source_texts, target_texts)
    assert source_facts["letters"]["spelled"] == target_facts["letters"]["spelled"] == 100.0
    assert 0 < pair["kinds"]["letters"]["boundary"] <= 100
    facts = {"spm": (source, source_facts), "bytes": (target, target_facts)}
    tokenizers = {name: {"tokens": t.size, "kinds": of_kind} for name, (t, of_kind) in facts.items()}
    shown = tokenizer_table.tables({"texts": {"letters": {}}, "tokenizers": tokenizers, "pairs": [pair]})
    assert shown.count("| spm → bytes |") == 3
    assert "| bytes | 260 | 100 /" in shown


@pytest.fixture(scope="module", params=list(real_tokenizers.RECIPES))
def published(request: pytest.FixtureRequest) -> ByteTokenizer:
    path = FETCHED / f"{request.param}.json"
    if not path.exists():
        pytest.skip(f"{path} is not there: run python bench/real_tokenizers.py")
    return real_tokenizers.read(path)


@pytest.fixture(scope="module")
def smollm2() -> ByteTokenizer:
    path = FETCHED / "smollm2.json"
    if not path.exists():
        pytest.skip(f"{path} is not there: run python bench/real_tokenizers.py")
    return real_tokenizers.read(path)


def _is_spelled(tokenizer: ByteTokenizer, text: str) -> bool:
    return tokenizer_table.spells(tokenizer, text, tokenizer.tokenize(text))


def test_every_published_tokenizer_spells_nasty_strings_but_for_its_normalisation(published: ByteTokenizer) -> None:
    not_spelled = {text for text in NASTY if not _is_spelled(published, text)}
    assert not_spelled == NOT_SPELLED.get(published.name, set())


def test_every_published_tokenizer_gives_ends_that_never_decrease(published: ByteTokenizer) -> None:
    for text in NASTY:
        tokenized = published.tokenize(text)
        assert (np.diff(tokenized.byte_ends_T) >= 0).all()
        assert tokenized.byte_ends_T[-1] <= len(text.encode())


def test_the_partition_of_a_published_tokenizer_with_itself_is_the_identity(published: ByteTokenizer) -> None:
    same = vocab.build(Vocabulary.PARTITION, published, published)
    assert same.cell_of_source_V.tolist() == same.cell_of_target_V.tolist()
    assert tokenizer_table.single_token_cells(same) == same.cells


def test_boundary_finds_exactly_the_common_ends_of_published_tokenizers(
    published: ByteTokenizer, smollm2: ByteTokenizer
) -> None:
    for text in NASTY:
        source, target = published.tokenize(text), smollm2.tokenize(text)
        found = boundary(source, target)
        ends = target.byte_ends_T[found.target_positions_R]
        assert (source.byte_ends_T[found.source_rows_R] == ends).all()
        standing = source.byte_ends_T if source.stands_T is None else source.byte_ends_T[source.stands_T]
        common = set(standing.tolist()) & set(target.byte_ends_T[:-1].tolist())
        expected = {end for end in common if end < target.byte_ends_T[-1] and (end > 0 or not source.has_prefix_space)}
        assert set(ends.tolist()) == expected
