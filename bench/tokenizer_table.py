"""What alignment finds on real tokenizers: all ordered pairs, seven kinds of text.

    python bench/tokenizer_table.py             # fetches what is missing; writes bench/results/tokenizer_table.json

For each pair (source → target) and kind: the share of target positions that have evidence under `boundary`, `mined` and
`reference`; how often, where both sides stand at the same place, their next tokens lie in one cell of the partition,
and how often `first_piece` names the target's next token. Shares are of all positions that predict a token. The
partition of a pair is built whole, and timed on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

# Before the libraries read it: times are those of one core.
os.environ.setdefault("RAYON_NUM_THREADS", "1")

import numpy as np
import real_tokenizers
import table_texts
from result_file import write_result

from fusery.core import reference, vocab
from fusery.core.alignment import Side, align, boundary
from fusery.core.levenshtein import nearest
from fusery.core.rules import Positions, Vocabulary
from fusery.core.tokens import ByteTokenizer, TokenizedText
from fusery.core.topk import PAD, VocabularyMap
from fusery.runtime.errors import ModelError

RESULT = Path(__file__).parent / "results" / "tokenizer_table.json"
TOKENIZERS = real_tokenizers.WORK / "tokenizers"
KIND_BYTES = 16_000
Texts = dict[str, list[TokenizedText]]


@dataclass(slots=True)
class Counts:
    """What was counted over documents; `agree` and `named` are out of `common`, the others out of `positions`."""

    positions: int = 0
    boundary: int = 0
    mined: int = 0
    reference: int = 0
    common: int = 0
    agree: int = 0
    named: int = 0

    def add(self, other: Counts) -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    def shares(self) -> dict[str, float]:
        """Percentages, by the names that the JSON and the tables use."""
        of_all = {name: percent(getattr(self, name), self.positions) for name in ("boundary", "mined", "reference")}
        same = {"same_cell": percent(self.agree, self.common), "first_piece": percent(self.named, self.common)}
        return of_all | same


def percent(part: int, whole: int) -> float:
    return round(100.0 * part / whole, 2) if whole else 0.0


@dataclass(frozen=True, slots=True)
class Maps:
    """The vocabulary maps of a pair; `mined` and `reference` hold the source tokens that the texts have."""

    partition: VocabularyMap
    first_piece: VocabularyMap
    mined: VocabularyMap
    reference: VocabularyMap
    partition_seconds: float


def build_maps(source: ByteTokenizer, target: ByteTokenizer, used: set[int]) -> Maps:
    """`used`: the source ids that occur; MinED of a whole large vocabulary takes minutes and would count no more."""
    started = time.perf_counter()
    partition = vocab.build(Vocabulary.PARTITION, source, target)
    seconds = round(time.perf_counter() - started, 2)
    first_piece = vocab.first_piece(source, target)
    return Maps(partition, first_piece, mined(source, target, used), mined_strings(source, target, used), seconds)


def mined(source: ByteTokenizer, target: ByteTokenizer, used: set[int]) -> VocabularyMap:
    """What `vocab.build(Vocabulary.MIN_ED, …)` gives for the source ids in `used`."""
    ids = [i for i in sorted(used) if source.token_bytes[i] and not _is_shadowed(source, i)]
    choices = [i for i, token in enumerate(target.token_bytes) if token and not _is_shadowed(target, i)]
    index = nearest([source.token_bytes[i] or b"" for i in ids], [target.token_bytes[i] or b"" for i in choices])
    cell_of_source = np.full(source.size, PAD, np.int64)
    cell_of_source[ids] = np.asarray(choices, np.int64)[index]
    return VocabularyMap(cell_of_source, np.arange(target.size, dtype=np.int64), target.size)


def _is_shadowed(tokenizer: ByteTokenizer, index: int) -> bool:
    """A byte token whose byte an ordinary token spells: one that the tokenizer never emits."""
    return index in tokenizer.byte_fallback_ids and tokenizer.token_bytes[index] in _single_bytes(tokenizer)


@cache
def _single_bytes(tokenizer: ByteTokenizer) -> frozenset[bytes]:
    fallback = tokenizer.byte_fallback_ids
    return frozenset(t for i, t in enumerate(tokenizer.token_bytes) if t and len(t) == 1 and i not in fallback)


def mined_strings(source: ByteTokenizer, target: ByteTokenizer, used: set[int]) -> VocabularyMap:
    """The same over token strings, as the paper's public implementation has it."""
    strings = [string if i in used else None for i, string in enumerate(source.token_strings)]
    markers = source.space_marker, target.space_marker
    mapped = reference.token_map(Vocabulary.MIN_ED, strings, markers[0], target.token_strings, markers[1])
    return VocabularyMap(mapped.image_V, np.arange(target.size, dtype=np.int64), target.size)


def evidence_of_reference(source: Side, target: Side, maps: Maps) -> int:
    """Target positions that take a source row in the paper's public implementation, soft matching."""
    return len(align(Positions.REFERENCE, source, target, maps.reference).target_positions_R)


def count(source: Side, target: Side, maps: Maps) -> Counts:
    """One document."""
    common = boundary(source.text, target.text)
    agree, named = next_tokens(source.text, target.text, maps.partition, maps.first_piece)
    return Counts(
        positions=len(target.text.ids_T) - 1,
        boundary=len(align(Positions.BOUNDARY, source, target, maps.partition).target_positions_R),
        mined=len(align(Positions.DTW, source, target, maps.mined).target_positions_R),
        reference=evidence_of_reference(source, target, maps),
        common=len(common.target_positions_R),
        agree=agree,
        named=named,
    )


def next_tokens(
    source: TokenizedText, target: TokenizedText, partition: VocabularyMap, first_piece: VocabularyMap
) -> tuple[int, int]:
    """Over the common boundaries: next tokens in one cell, and next source tokens whose image is the target's next."""
    common = boundary(source, target)
    # A source that dropped what is left of the text has no next token there.
    has_next = common.source_rows_R < len(source.ids_T) - 1
    source_next = source.ids_T[common.source_rows_R[has_next] + 1]
    target_next = target.ids_T[common.target_positions_R[has_next] + 1]
    cells = partition.cell_of_source_V[source_next]
    agree = (cells >= 0) & (cells == partition.cell_of_target_V[target_next])
    named = first_piece.cell_of_source_V[source_next] == target_next
    return int(agree.sum()), int(named.sum())


def single_token_cells(partition: VocabularyMap) -> int:
    """Cells with exactly one target token."""
    cells = partition.cell_of_target_V[partition.cell_of_target_V >= 0]
    return int((np.bincount(cells, minlength=partition.cells) == 1).sum())


def spells(tokenizer: ByteTokenizer, document: str, tokenized: TokenizedText) -> bool:
    """Whether the tokens' bytes are the document's, but for the space that a tokenizer puts before it."""
    pieces = b"".join(tokenizer.token_bytes[index] or b"" for index in tokenized.ids_T.tolist())
    return pieces in (document.encode(), b" " + document.encode())


def tokenize(tokenizer: ByteTokenizer, documents: dict[str, list[str]]) -> tuple[Texts, dict[str, dict[str, float]]]:
    """Every kind's documents, and what is to say about the tokenizer on each kind."""
    texts, facts = {}, {}
    for kind, whole in documents.items():
        try:
            texts[kind] = tokenizer.tokenize_batch(whole)
        except ModelError as error:
            raise SystemExit(f"{tokenizer.name}, {kind}: {error}") from error
        spelled = sum(spells(tokenizer, document, t) for document, t in zip(whole, texts[kind], strict=True))
        tokens = sum(len(t.ids_T) - len(tokenizer.prefix_ids) for t in texts[kind])
        n_bytes = sum(len(document.encode()) for document in whole)
        facts[kind] = {"spelled": percent(spelled, len(whole)), "bytes_per_token": round(n_bytes / tokens, 3)}
    return texts, facts


def measure_pair(
    source: ByteTokenizer, target: ByteTokenizer, source_texts: Texts, target_texts: Texts
) -> dict[str, Any]:
    """One row of the result."""
    used = {index for texts in source_texts.values() for text in texts for index in text.ids_T.tolist()}
    maps = build_maps(source, target, used)
    total, kinds = Counts(), {}
    for kind in target_texts:
        of_kind = Counts()
        for s, t in zip(source_texts[kind], target_texts[kind], strict=True):
            of_kind.add(count(Side(source, s), Side(target, t), maps))
        total.add(of_kind)
        kinds[kind] = {"positions": of_kind.positions} | of_kind.shares()
    return {
        "source": source.name,
        "target": target.name,
        "cells": maps.partition.cells,
        "single_token_cells": single_token_cells(maps.partition),
        "partition_seconds": maps.partition_seconds,
        "all_kinds": total.shares(),
        "kinds": kinds,
    }


def load_tokenizers(folder: Path, names: Sequence[str]) -> tuple[dict[str, ByteTokenizer], dict[str, str]]:
    """The distinct tokenizers by name; and of those that equal an earlier one, whose they are."""
    distinct: dict[str, ByteTokenizer] = {}
    same: dict[str, str] = {}
    for name in names:
        path = folder / f"{name}.json"
        if not path.exists():
            raise SystemExit(f"{path} is not there: run python bench/real_tokenizers.py first")
        tokenizer = real_tokenizers.read(path)
        twin = next((n for n, other in distinct.items() if other.fingerprint == tokenizer.fingerprint), None)
        if twin is None:
            distinct[name] = tokenizer
        else:
            same[name] = twin
    return distinct, same


def measure(names: Sequence[str], folder: Path, kind_bytes: int) -> dict[str, Any]:
    """Everything that goes into the JSON."""
    started = time.perf_counter()
    documents = {
        kind: table_texts.sample(table_texts.documents(text), kind_bytes) for kind, text in table_texts.load().items()
    }
    tokenizers, same = load_tokenizers(folder, names)
    tokenized = {name: tokenize(tokenizer, documents) for name, tokenizer in tokenizers.items()}
    pairs = []
    for s, source in tokenizers.items():
        for t, target in tokenizers.items():
            if s != t:
                pairs.append(measure_pair(source, target, tokenized[s][0], tokenized[t][0]))
                print(f"{s} → {t}: {pairs[-1]['all_kinds']} {pairs[-1]['partition_seconds']} s", flush=True)
    return {
        "command": "python bench/tokenizer_table.py",
        "versions": {"python": platform.python_version(), "processor": platform.machine(), "numpy": np.__version__},
        "seconds": round(time.perf_counter() - started),
        "texts": {
            kind: {"documents": len(whole), "bytes": sum(len(d.encode()) for d in whole)}
            for kind, whole in documents.items()
        },
        "tokenizers": {
            name: {"tokens": tokenizer.size, "fingerprint": tokenizer.fingerprint, "kinds": tokenized[name][1]}
            for name, tokenizer in tokenizers.items()
        },
        "same_tokenizer": same,
        "pairs": pairs,
    }


def tables(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    kinds = list(result["texts"])
    pairs = result["pairs"]

    def named(pair: dict[str, Any]) -> str:
        return f"{pair['source']} → {pair['target']}"

    def evidence(shares: dict[str, float]) -> str:
        return " / ".join(f"{shares[rule]:.0f}" for rule in ("boundary", "mined", "reference"))

    def sameness(shares: dict[str, float]) -> str:
        return f"{shares['same_cell']:.1f} / {shares['first_piece']:.1f}"

    def by_kind(cell: Callable[[dict[str, float]], str]) -> Iterable[Sequence[str]]:
        for pair in pairs:
            yield [named(pair), *(cell(pair["kinds"][kind]) for kind in kinds), cell(pair["all_kinds"])]

    spelled = (
        [name, f"{facts['tokens']:,}", *(_spelled(facts["kinds"][kind]) for kind in kinds)]
        for name, facts in result["tokenizers"].items()
    )
    cells = (
        [named(p), f"{p['cells']:,}", f"{p['single_token_cells']:,}", f"{p['partition_seconds']:.1f}"] for p in pairs
    )
    return "\n\n".join(
        [
            "Documents spelled, % / bytes per token",
            _markdown(["tokenizer", "tokens", *kinds], spelled),
            "Target positions with evidence, %: boundary / mined / reference",
            _markdown(["source → target", *kinds, "all"], by_kind(evidence)),
            "At a common boundary, %: next tokens in one cell / first_piece names the target's next token",
            _markdown(["source → target", *kinds, "all"], by_kind(sameness)),
            "Cells of the partition, those of a single target token, and the seconds that it took to build",
            _markdown(["source → target", "cells", "single", "seconds"], cells),
        ]
    )


def _spelled(facts: dict[str, float]) -> str:
    return f"{facts['spelled']:.0f} / {facts['bytes_per_token']:.2f}"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizers", type=Path, default=TOKENIZERS, help="folder of bench/real_tokenizers.py")
    parser.add_argument("--names", nargs="+", default=list(real_tokenizers.RECIPES), help="which tokenizers (all)")
    parser.add_argument("--kind-bytes", type=int, default=KIND_BYTES, help="text of each kind (%(default)s)")
    parser.add_argument("--tables", action="store_true", help="print an earlier result's tables, measure nothing")
    arguments = parser.parse_args()
    if not arguments.tables:
        result = measure(arguments.names, arguments.tokenizers, arguments.kind_bytes)
        ours, theirs = (mean_share(result, rule) for rule in ("boundary", "reference"))
        write_result(
            "tokenizer_table",
            measure="target positions with evidence under boundary, mean over all pairs and kinds of text",
            value=round(ours, 2),
            unit="%",
            baseline={"what": "under reference", "value": round(theirs, 2)},
            ratio=round(ours / theirs, 3),
            goal="above 1",
            **result,
        )
    print(tables(json.loads(RESULT.read_text(encoding="utf-8"))))


def mean_share(result: dict[str, Any], rule: str) -> float:
    """Of a rule's shares over all kinds of text, the mean over the pairs."""
    shares = [pair["all_kinds"][rule] for pair in result["pairs"]]
    return float(sum(shares) / len(shares))


if __name__ == "__main__":
    main()
