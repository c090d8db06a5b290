"""Mode `reference` on records of the paper's public implementation: what we return for the same documents.

    python bench/reference_records.py RECORD.json.gz … --source-vocab F --target-vocab F [--mapping F] [--print-mapping]

A record holds one document, tokenised by a target ("base") and a source ("blending"), with the source's per-step top-k.
A vocabulary is a JSON list of token strings, index = id; a mapping a JSON object {source token with the target's
marker: target token}, computed if not given. Files may be gzipped. Prints one JSON line per record: name, dtw {cost,
base_to_blending, blending_to_base}, hard and soft {per_step_aligned_indices, per_step_aligned_logits}, in the records'
own form; with --print-mapping one line {"mapping": …} before them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusery.core import reference
from fusery.core.projection import kept_entries
from fusery.core.reference import TokenMap, TokenStrings
from fusery.core.rules import TieOrder, Vocabulary
from fusery.core.topk import PAD, IntArray

Json = dict[str, Any]


def read_json(path: Path) -> Any:
    """The content of a JSON file, gzipped or not.

    Raises:
        SystemExit: it can't be read; says which and why.
    """
    try:
        content = path.read_bytes()
        return json.loads(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    except (OSError, EOFError, ValueError) as error:
        raise SystemExit(f"{path}: not a JSON file, gzipped or not: {error}") from error


def given_mapping(mapping: dict[str, str], keys: Sequence[str], target: Sequence[str]) -> IntArray:
    """The target id of every source id under a mapping that was given, int64 [source V]."""
    id_of = {token: i for i, token in reversed(list(enumerate(target)))}
    missing = next((string for string in keys if string not in mapping or mapping[string] not in id_of), None)
    if missing is not None:
        raise SystemExit(f"the mapping has no target token for {missing!r}; is it of these two vocabularies?")
    return np.asarray([id_of[mapping[string]] for string in keys], np.int64)


def both_ways(pairs_P2: IntArray, source_tokens: int, target_tokens: int) -> Json:
    """The matched positions of the other side, ascending, for every target and every source position."""
    base: list[list[int]] = [[] for _ in range(target_tokens)]
    blending: list[list[int]] = [[] for _ in range(source_tokens)]
    for row, position in pairs_P2.tolist():
        base[position].append(row)
        blending[row].append(position)
    return {"base_to_blending": base, "blending_to_base": blending}


def aligned(
    record: Json, row_of_position: IntArray, target_ids: Sequence[int], mapped: TokenMap
) -> dict[str, list[list[float]]]:
    """Per target position the ids and logits that `reference` gives it."""
    ids: list[list[float]] = []
    logits: list[list[float]] = []
    for target_id, row in zip(target_ids, row_of_position.tolist(), strict=True):
        if row == PAD:
            ids.append([target_id])
            logits.append([1.0])
            continue
        images = mapped.images(np.asarray(record["blending_per_step_indices"][row], np.int64))
        kept = np.flatnonzero(kept_entries(images[None])[0])
        ids.append(images[kept].tolist())
        logits.append([record["blending_per_step_logits"][row][entry] for entry in kept.tolist()])
    return {"per_step_aligned_indices": ids, "per_step_aligned_logits": logits}


def answer(record: Json, hard: TokenMap, soft: TokenMap, ties: TieOrder) -> Json:
    """What we return for `record`, in its own form."""
    marker = record["space_marker"]
    source_ids, target_ids = record["blending_input_ids"], record["base_input_ids"]
    source = TokenStrings(record["blending_tokens"], np.asarray(source_ids, np.int64), marker["blending"])
    target = TokenStrings(record["base_tokens"], np.asarray(target_ids, np.int64), marker["base"])
    path = reference.path_of(source, target, ties)
    rows = {name: reference.matches(path, source, target, m) for name, m in (("hard", hard), ("soft", soft))}
    return {
        "name": record["name"],
        "dtw": {"cost": float(path.cost), **both_ways(path.pairs_P2, len(source_ids), len(target_ids))},
        "hard": aligned(record, rows["hard"], target_ids, hard),
        "soft": aligned(record, rows["soft"], target_ids, soft),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+", type=Path, metavar="RECORD.json.gz")
    parser.add_argument("--source-vocab", type=Path, required=True)
    parser.add_argument("--target-vocab", type=Path, required=True)
    parser.add_argument("--mapping", type=Path, help="use this mapping instead of computing it")
    parser.add_argument("--print-mapping", action="store_true")
    parser.add_argument("--ties", type=TieOrder, choices=list(TieOrder), default=TieOrder.DIAGONAL_SOURCE_TARGET)
    given = parser.parse_args(arguments)
    source, target = read_json(given.source_vocab), read_json(given.target_vocab)
    records = [read_json(path) for path in given.records]
    markers = {(record["space_marker"]["blending"], record["space_marker"]["base"]) for record in records}
    if len(markers) != 1:
        parser.error(f"the records are of {len(markers)} pairs of markers {sorted(markers)}; give those of one pair")
    [(source_marker, target_marker)] = markers
    hard = reference.token_map(Vocabulary.EXACT, source, source_marker, target, target_marker)
    keys = [reference.key(token, source_marker, target_marker) for token in source]
    if given.mapping is None:
        soft = reference.token_map(Vocabulary.MIN_ED, source, source_marker, target, target_marker)
    else:
        soft = TokenMap(given_mapping(read_json(given.mapping), keys, target), hard.id_of)
    if given.print_mapping:
        mapping = {string: target[image] for string, image in zip(keys, soft.image_V.tolist(), strict=True)}
        print(json.dumps({"mapping": mapping}, ensure_ascii=False))
    for record in records:
        print(json.dumps(answer(record, hard, soft, given.ties), ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
