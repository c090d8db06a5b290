"""Alignment and fusion against the plain Python rule, on one core, everything measured in this run.

    python bench/align.py [--quick]      # after `python bench/real_tokenizers.py`

SmolLM2 → Llama-2 on Python's own documentation. Plain is the rule as the paper's implementation states it (cell by
cell in Python, a distance call each, dicts of strings): tests/support/core/oracles.py. CPU seconds of a process of
its own for each measure; peak memory is the growth of that process's largest resident size.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from pydoc_data.topics import topics

import numpy as np
from memory import peak_mb
from result_file import write_result

from fusery.core import vocab
from fusery.core.alignment import Side, align, boundary
from fusery.core.fusion import AlignedSource, fuse, merged
from fusery.core.projection import project_as_reference
from fusery.core.reference import key
from fusery.core.rules import FusionRule, Positions, Vocabulary
from fusery.core.tokens import ByteTokenizer
from fusery.core.topk import PAD, TopK, VocabularyMap
from support.core.oracles import plain_kept, plain_nearest, plain_reference

TOKENIZERS = Path(__file__).parent / "work" / "tokenizers"
SOURCE, TARGET, K = "smollm2", "llama-2", 10
Row = dict[str, float]


def load(name: str) -> ByteTokenizer:
    path = TOKENIZERS / f"{name}.json"
    if not path.exists():
        raise SystemExit(f"{path} is not there; run first: python bench/real_tokenizers.py")
    return ByteTokenizer.from_definition(path.read_text(encoding="utf-8"))


def text_of(tokenizer: ByteTokenizer, tokens: int) -> str:
    """The beginning of the documentation that has about `tokens` tokens."""
    text = "\n".join(topics[name] for name in sorted(topics))
    ends = tokenizer.tokenize(text[: 8 * tokens]).byte_ends_T
    return text.encode()[: int(ends[tokens - 1])].decode(errors="ignore")


def cpu_ms(function: Callable[[], object], repeats: int) -> float:
    """CPU milliseconds of the median run."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1000 * sorted(times)[len(times) // 2]


def apart(function: Callable[..., Row], *arguments: Any) -> Row:
    """`function` in a process of its own, so that one measure's memory is not another's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def top_k(rows: int, vocabulary: int, seed: int) -> TopK:
    random = np.random.default_rng(seed)
    log_probs = np.sort(-random.exponential(2.0, size=(rows, K)), axis=1)[:, ::-1] - 2.5
    return TopK(random.integers(0, vocabulary, size=(rows, K)), np.ascontiguousarray(log_probs, dtype=np.float32))


def exact_path(tokens: int, plain: bool) -> Row:
    """Path and map of one document under `reference`: milliseconds and megabytes."""
    source, target = load(SOURCE), load(TARGET)
    vocabulary = vocab.build(Vocabulary.EXACT, source, target, Positions.REFERENCE)
    text = text_of(target, tokens)
    sides = Side(source, source.tokenize(text)), Side(target, target.tokenize(text))
    top = top_k(len(sides[0].text.ids_T), source.size, 0)
    ours = path_and_map(sides, vocabulary, top)
    # Before memory is looked at: the compiler takes more than any document.
    ours()
    measured = plain_path_and_map(sides, vocabulary, top) if plain else ours
    took: list[float] = []
    megabytes = peak_mb(lambda: took.append(cpu_ms(measured, 1 if plain else 15)))
    return {"ms": took[0], "mb": megabytes, "tokens": len(sides[1].text.ids_T)}


def path_and_map(sides: tuple[Side, Side], vocabulary: VocabularyMap, top: TopK) -> Callable[[], TopK]:
    def run() -> TopK:
        pairs = align(Positions.REFERENCE, *sides, vocabulary)
        return project_as_reference(top.take(pairs.source_rows_R), vocabulary.cell_of_source_V)

    return run


def plain_path_and_map(sides: tuple[Side, Side], vocabulary: VocabularyMap, top: TopK) -> Callable[[], object]:
    source, target = (side.tokenizer for side in sides)
    strings = [
        [str(side.tokenizer.token_strings[i]) for i in side.text.ids_T[len(side.tokenizer.prefix_ids) :].tolist()]
        for side in sides
    ]
    markers = source.space_marker, target.space_marker
    keys = [key(string or "", *markers) for string in source.token_strings]
    images = vocabulary.cell_of_source_V.tolist()
    mapping = {k: str(target.token_strings[i]) for k, i in zip(keys, images, strict=True) if i != PAD}
    ids_RK, id_of = top.ids_RK.tolist(), {str(string): i for i, string in enumerate(target.token_strings)}

    def run() -> list[list[int]]:
        taken = plain_reference(*strings, markers, mapping)
        rows = [ids_RK[row] for row in taken if row is not None]
        mapped = [[id_of.get(mapping.get(keys[i], ""), PAD) for i in row] for row in rows]
        return [[row[entry] for entry in plain_kept(row)] for row in mapped]

    return run


def boundaries(tokens: int) -> Row:
    """Boundary alignment, and the tokenising of the same text with both tokenizers: milliseconds."""
    source, target = load(SOURCE), load(TARGET)
    text = text_of(target, tokens)
    s, t = source.tokenize(text), target.tokenize(text)
    ms = cpu_ms(lambda: boundary(s, t), 300)
    backends = [tokenizer._backend for tokenizer in (source, target)]
    tokenising = cpu_ms(lambda: [backend.encode(text, add_special_tokens=False) for backend in backends], 30)
    return {"ms": ms, "tokenising_ms": tokenising}


def vocabulary_map(rule: str, positions: str) -> Row:
    """Seconds for the whole map; for `min_ed` also what the plain rule takes for each source token."""
    source, target = load(SOURCE), load(TARGET)
    _ = source.token_bytes, target.token_bytes, source.token_strings, target.token_strings
    _ = source.fingerprint, target.fingerprint
    start = time.process_time()
    vocab.build(Vocabulary(rule), source, target, Positions(positions))
    seconds = time.process_time() - start
    sample = [token for token in source.token_bytes[:: source.size // 40] if token]
    choices = [token for token in target.token_bytes if token]
    plain = cpu_ms(lambda: plain_nearest(sample, choices), 1) / 1000 / len(sample) * source.size
    return {"seconds": seconds, "plain_seconds": plain, "source_tokens": source.size, "target_tokens": target.size}


def fusing(rule: str, plain: bool) -> Row:
    """Three sources at 2048 positions, k = 10: microseconds a position."""
    positions = np.arange(2048)
    sources = [AlignedSource(positions, top_k(2048, 4000, seed), 1.0 + seed / 10) for seed in range(3)]
    if plain:
        ms = cpu_ms(lambda: plain_fusion(rule, sources), 3)
    else:
        ms = cpu_ms(lambda: merged(fuse(FusionRule(rule), sources), [0, 0, 0]), 30)
    return {"us": 1000 * ms / len(positions)}


def plain_fusion(rule: str, sources: list[AlignedSource]) -> list[dict[int, float]]:
    """As nested lists and dicts: the entries of every position, with their mass."""
    weights = [float(np.exp(-source.cost)) for source in sources]
    weights = [weight / sum(weights) for weight in weights]
    rows = [(s.top.ids_RK.tolist(), s.top.log_probs_RK.tolist()) for s in sources]
    best = min(range(len(sources)), key=lambda i: sources[i].cost)
    fused = []
    for position in range(sources[0].top.rows):
        masses: dict[int, float] = {}
        for i, (ids, log_probs) in enumerate(rows):
            if rule == "min_ce" and i != best:
                continue
            weight = 1.0 if rule == "min_ce" else weights[i]
            for index, log_prob in zip(ids[position], log_probs[position], strict=True):
                masses[index] = masses.get(index, 0.0) + weight * float(np.exp(log_prob))
        fused.append(dict(sorted(masses.items(), key=lambda entry: -entry[1])))
    return fused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out the plain path at 2048 tokens and ours beyond")
    quick = parser.parse_args().quick
    lengths = (128, 512) if quick else (128, 512, 2048)
    print(f"{'exact path + map':>18} {'ours ms':>9} {'plain ms':>10} {'ratio':>7} {'ours MB':>8} {'plain MB':>9}")
    paths = []
    for tokens in lengths if quick else (*lengths, 4096):
        ours = apart(exact_path, tokens, False)
        plain = apart(exact_path, tokens, True) if tokens in lengths else {"ms": float("nan"), "mb": float("nan")}
        row = {"tokens": tokens, "ms": ours["ms"], "plain_ms": plain["ms"], "ratio": plain["ms"] / ours["ms"]}
        paths.append(row | {"mb": ours["mb"], "plain_mb": plain["mb"]})
        print(
            f"{tokens:>11} tokens {ours['ms']:>9.2f} {plain['ms']:>10.1f} {row['ratio']:>6.0f}× "
            f"{ours['mb']:>8.1f} {plain['mb']:>9.1f}",
            flush=True,
        )
    print(f"{'boundary':>18} {'ms':>9} {'tokenising ms':>14} {'share':>6}")
    ends = []
    for tokens in (128, 512, 2048, 8192):
        found = apart(boundaries, tokens)
        share = found["ms"] / found["tokenising_ms"]
        ends.append({"tokens": tokens, **found, "share_of_tokenising": share})
        print(f"{tokens:>11} tokens {found['ms']:>9.3f} {found['tokenising_ms']:>14.2f} {share:>6.1%}", flush=True)
    print(f"{'vocabulary map':>18} {'s':>9} {'plain s':>10} {'ratio':>7}   (plain: from 40 of the source's tokens)")
    maps = []
    for rule, positions in (("partition", "boundary"), ("min_ed", "boundary"), ("min_ed", "reference")):
        built = apart(vocabulary_map, rule, positions)
        name = rule if positions == "boundary" else f"{rule} (strings)"
        plain_shown = (
            ""
            if rule == "partition"
            else f"{built['plain_seconds']:>10.0f} {built['plain_seconds'] / built['seconds']:>6.0f}×"
        )
        maps.append({"rule": rule, "positions": positions, **built})
        print(f"{name:>18} {built['seconds']:>9.2f} {plain_shown}", flush=True)
    print(f"{'fusion':>18} {'µs/position':>12} {'plain':>7} {'ratio':>7}")
    fusions = []
    for rule in ("min_ce", "avg_ce"):
        ours, plain = apart(fusing, rule, False), apart(fusing, rule, True)
        fusions.append({"rule": rule, "us": ours["us"], "plain_us": plain["us"], "ratio": plain["us"] / ours["us"]})
        print(f"{rule:>18} {ours['us']:>12.2f} {plain['us']:>7.1f} {fusions[-1]['ratio']:>6.0f}×", flush=True)
    if quick:
        return
    longest, beyond = paths[len(lengths) - 1], paths[-1]
    write_result(
        "align",
        measure="exact warping path and vocabulary map of one 2048-token document",
        value=round(longest["ms"], 3),
        unit="CPU ms",
        baseline={"what": "the plain Python rule", "value": round(longest["plain_ms"], 1), "unit": "CPU ms"},
        ratio=round(longest["ratio"], 1),
        goal="ratio at least 300; boundary at most 2 ms and 5 % of tokenising; min_ed map at most 10 s",
        paths=[*paths[:-1], {name: beyond[name] for name in ("tokens", "ms", "mb")}],
        boundary=ends,
        vocabulary_maps=maps,
        fusion=fusions,
    )


if __name__ == "__main__":
    main()
