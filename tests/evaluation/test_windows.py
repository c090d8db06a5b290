"""Windows: every byte is predicted once, with half a context before it, whatever the tokenizer makes of a piece."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fusery.core.topk import empty
from fusery.evaluation.bits_per_byte import HeldOutDocument, measure
from fusery.evaluation.scores import Scores
from fusery.evaluation.windows import Read, Reading, documents_of_pieces, joined, windows
from fusery.hops.store.shards import CorpusDocument
from fusery.run.corpus.reading import split
from fusery.runtime.errors import CorpusError
from fusery.source.api import Distributions, Document
from support.models.pico_models import TEXTS, TOKENIZERS, pico_byte_tokenizer

LONG = "".join(TEXTS) * 3


class ByteModel:
    """Needs one bit for each byte of a token: its bits do not depend on how a text is cut."""

    def __init__(self, kind: str) -> None:
        self.tokenizer = pico_byte_tokenizer(kind)
        self.longest = 0

    def compute(self, documents: list[Document], top_k: int) -> list[Distributions]:
        return [self._read(document) for document in documents]

    def _read(self, document: Document) -> Distributions:
        text = self.tokenizer.tokenize(document.text)
        self.longest = max(self.longest, len(text.ids_T))
        log_probs = np.append(-math.log(2) * np.diff(text.byte_ends_T), 0.0).astype(np.float32)
        return Distributions(document.id, text.ids_T, text.byte_ends_T, empty(len(text.ids_T), 1), log_probs)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_document_that_fits_is_one_window(kind: str) -> None:
    tokenizer = pico_byte_tokenizer(kind)
    tokens = len(tokenizer.tokenize(TEXTS[0]).ids_T)
    (fitting,) = windows([TEXTS[0]], Reading(tokenizer, tokens))
    assert [window.text for window in fitting] == [TEXTS[0]]
    (cut,) = windows([TEXTS[0]], Reading(tokenizer, tokens - 1))
    assert len(cut) == 2


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=st.text(st.sampled_from("ab né東😀\n\tdef(x):"), min_size=1, max_size=300), size=st.integers(24, 60))
def test_windows_cover_the_text_overlap_and_fit(kind: str, text: str, size: int) -> None:
    tokenizer, data = pico_byte_tokenizer(kind), text.encode()
    (cut,) = windows([text], Reading(tokenizer, size))
    assert cut[0].start == 0
    assert cut[-1].start + len(cut[-1].text.encode()) == len(data)
    for window in cut:
        assert data[window.start :].startswith(window.text.encode())
        assert len(tokenizer.tokenize(window.text).ids_T) <= size
    for before, after in pairwise(cut):
        assert before.start < after.start < before.start + len(before.text.encode())


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("size", [24, 40, 111])
def test_a_model_that_needs_no_context_scores_a_cut_document_as_a_whole_one(kind: str, size: int) -> None:
    model = ByteModel(kind)
    documents = [HeldOutDocument("long", "all", LONG), HeldOutDocument("short", "all", TEXTS[0])]
    whole = measure(model, documents)
    model.longest = 0
    cut = measure(model, documents, reading=Reading(model.tokenizer, size))
    assert model.longest <= size
    assert cut.predicted_bytes == whole.predicted_bytes
    assert cut.bits == pytest.approx(whole.bits, rel=1e-6)


def test_every_token_but_the_first_windows_has_about_half_a_window_before_it() -> None:
    tokenizer = pico_byte_tokenizer("byte_level")
    (cut,) = windows([LONG], Reading(tokenizer, 64))
    ends = [tokenizer.tokenize(window.text).byte_ends_T + window.start for window in cut]
    for before, after in pairwise(ends):
        handed_over = int(np.intersect1d(before, after)[-1])
        assert np.count_nonzero(after <= handed_over) >= 24


def test_windows_hand_over_where_tokens_end_in_both_and_nothing_counts_twice() -> None:
    first = Read(0, np.array([0, 3, 6, 9]), np.array([-1, -2, -4, 0], np.float32))
    second = Read(3, np.array([3, 5, 9, 12]), np.array([-8, -16, -32, 0], np.float32))
    log_probs, predicted = joined([first, second])
    assert log_probs.tolist() == [-1, -2, -4, -32]
    assert predicted == 12


def test_without_a_common_end_the_token_across_the_border_counts_whole() -> None:
    first = Read(0, np.array([0, 4, 8]), np.array([-1, -2, 0], np.float32))
    second = Read(4, np.array([5, 7, 11]), np.array([-4, -8, 0], np.float32))
    log_probs, predicted = joined([first, second])
    assert log_probs.tolist() == [-1, -2, -8]
    assert predicted == 11


def test_text_of_which_no_piece_fits_is_refused() -> None:
    with pytest.raises(CorpusError, match="no window of 3 tokens can be cut at byte 6"):
        windows(["東京" * 5], Reading(pico_byte_tokenizer("sentencepiece"), 3))


def test_windows_reach_a_server_through_its_pipelined_call() -> None:
    class Asked(ByteModel):
        def compute_many(self, requests, top_k):  # type: ignore[no-untyped-def]
            self.requests = [list(request) for request in requests]
            return iter([ByteModel.compute(self, request, top_k) for request in self.requests])

    model = Asked("unigram")
    documents = [HeldOutDocument(str(place), "all", text) for place, text in enumerate(TEXTS[:4])]
    scores = measure(model, documents, batch_bytes=200)
    assert len(model.requests) > 1
    assert scores == measure(ByteModel("unigram"), documents)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a", "b"], [[0], [1]]),
        (["a#0", "a#1", "a#2", "b"], [[0, 1, 2], [3]]),
        (["a#0", "b#1", "b#2"], [[0], [1, 2]]),
        # A double or a sample left the second piece out.
        (["a#0", "a#2", "a#3"], [[0], [1, 2]]),
        (["#0", "#1", "a#x", "a#"], [[0], [1], [2], [3]]),
        ([], []),
    ],
)
def test_pieces_that_follow_each_other_are_one_document(names: list[str], found: list[list[int]]) -> None:
    assert [list(places) for places in documents_of_pieces(names)] == found


@given(st.lists(st.sampled_from(["a#0", "a#1", "a#2", "b", "b#1"]), max_size=12))
def test_every_piece_stands_in_one_document_and_in_order(names: list[str]) -> None:
    assert [place for places in documents_of_pieces(names) for place in places] == list(range(len(names)))


def pieces_of(text: str, max_bytes: int) -> list[HeldOutDocument]:
    whole = CorpusDocument("doc", "all", text)
    return [HeldOutDocument(piece.doc_id, piece.domain, piece.text) for piece in split(whole, max_bytes)]


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=st.text(st.sampled_from("ab né東😀\n\tdef(x):"), min_size=20, max_size=400), max_bytes=st.integers(16, 90))
def test_a_document_that_the_corpus_cut_is_measured_whole(kind: str, text: str, max_bytes: int) -> None:
    """No byte but the first token's goes unpredicted, and no window is longer than the run's pieces, or 64 tokens."""
    pieces, model = pieces_of(text, max_bytes), ByteModel(kind)
    assume("".join(piece.text for piece in pieces) == text)
    scores = measure(model, pieces, reading=Reading(model.tokenizer, 10_000))
    assert scores.doc_ids == (pieces[0].doc_id,)
    unread = int(model.tokenizer.tokenize(text).byte_ends_T[0])
    assert scores.predicted_bytes == (len(text.encode()) - unread,)
    assert scores.bits[0] == pytest.approx(scores.predicted_bytes[0], rel=1e-6)
    longest = max(len(model.tokenizer.tokenize(piece.text).ids_T) for piece in pieces)
    assert model.longest <= max(longest, 64)


def test_scores_of_pieces_add_up_to_those_of_their_documents() -> None:
    pieces = Scores(("a#0", "a#1", "b", "a#4"), ("x", "x", "y", "x"), (1.0, 2.0, 4.0, 8.0), (3, 5, 7, 11))
    whole = pieces.of_whole_documents()
    assert whole == Scores(("a#0", "b", "a#4"), ("x", "y", "x"), (3.0, 4.0, 8.0), (8, 7, 11))
    assert whole.mean_bits_per_byte == pytest.approx(pieces.mean_bits_per_byte)
    assert whole.of_whole_documents() == whole
