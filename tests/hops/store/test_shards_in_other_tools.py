"""Captures open with the tools of the field, and the lines of docs/store.md decode them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from fusery.core.topk import TopK
from fusery.hops.store import shards
from fusery.hops.store.shards import CapturedDocument

DOCS = Path(__file__).parents[3] / "docs/store.md"


def block(language: str, with_words: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    [found] = [found for found in blocks if with_words in found]
    return str(found)


@pytest.fixture
def documents() -> list[CapturedDocument]:
    random = np.random.default_rng(0)
    made = []
    for number, tokens in enumerate((7, 1, 12)):
        log_probs = -np.sort(random.exponential(2, (tokens, 5)), axis=1).astype(np.float16).astype(np.float32) - 2
        log_probs[0, 3:] = -6e-6 - 9, -np.inf
        top = TopK(random.integers(0, 300_000, (tokens, 5)), log_probs)
        ends = np.cumsum(random.integers(1, 5, tokens))
        following = -random.random(tokens).astype(np.float32)
        made.append(CapturedDocument(f"d{number}", random.integers(0, 9, tokens), ends, top, following))
    return made


@pytest.fixture
def folder(tmp_path: Path, documents: list[CapturedDocument], monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "shard-00000.parquet").write_bytes(shards.write_captured(documents, {}, "float16"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_pandas_reads_a_capture_with_the_lines_of_the_docs(documents: list[CapturedDocument]) -> None:
    known: dict[str, Any] = {}
    exec(block("python", "pd.read_parquet"), known)
    check(documents[0], known["top_ids"], known["log_probs"])
    np.testing.assert_array_equal(known["row"]["byte_ends"], documents[0].byte_ends_T)


def test_datasets_reads_a_capture_with_the_same_lines(folder: Path, documents: list[CapturedDocument]) -> None:
    import datasets

    files = str(folder / "shard-*.parquet")
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(folder / "cache"))
    lines = block("python", "pd.read_parquet").partition("iloc[0]\n")[2]
    for row, document in zip(rows.with_format("numpy"), documents, strict=True):
        known: dict[str, Any] = {"row": row, "np": np}
        exec(lines, known)
        check(document, known["top_ids"], known["log_probs"])


@pytest.mark.usefixtures("folder")
def test_duckdb_reads_a_capture_with_the_query_of_the_docs(documents: list[CapturedDocument]) -> None:
    with duckdb.connect() as connection:
        found = connection.sql(block("sql", "FROM 'shard-*.parquet'")).fetchnumpy()
    for document in documents:
        rows = found["doc_id"] == document.doc_id
        shape = document.top.ids_RK.shape
        check(document, found["id"][rows].reshape(shape), np.asarray(found["log_prob"])[rows].reshape(shape))


@pytest.mark.parametrize("write", ["corpus", "fused"])
def test_other_kinds_open_too(tmp_path: Path, write: str) -> None:
    from fusery.core.fusion import Evidence
    from fusery.hops.store.shards import CorpusDocument, FusedDocument

    if write == "corpus":
        content = shards.write_corpus([CorpusDocument("d", "x", "text")], {})
    else:
        top = TopK(np.asarray([[3, 1]]), np.asarray([[-0.5, -1.5]], np.float32))
        evidence = Evidence(np.asarray([0]), np.asarray([0]), np.ones(1, np.float32), top)
        content = shards.write_fused([FusedDocument("d", "x", np.arange(3), evidence)], {})
    path = tmp_path / "shard.parquet"
    path.write_bytes(content)
    with duckdb.connect() as connection:
        assert connection.read_parquet(str(path)).fetchall()[0][:2] == ("d", "x")


def check(document: CapturedDocument, top_ids: Any, log_probs: Any) -> None:
    np.testing.assert_array_equal(top_ids, document.top.ids_RK)
    expected = document.top.log_probs_RK.astype(np.float16).astype(np.float64)
    np.testing.assert_array_equal(np.asarray(log_probs, np.float64), expected)
