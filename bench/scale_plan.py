"""What MiniPile and a trillion tokens would cost, from what the other benchmarks measured here.

    python bench/scale_plan.py      # after the benchmarks that it names; writes the tables of docs/scale.md too

GPU time is not measured: it is derived from the operations of a model of 7 billion parameters at a stated share of an
A100's peak. Whatever benchmark has not been run yet is left out, and the table says so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from result_file import RESULTS, write_result

DOCUMENT = Path(__file__).parent.parent / "docs" / "scale.md"
START, END = "<!-- made by bench/scale_plan.py -->\n", "<!-- end -->\n"

SOURCES = 3
PARAMETERS = 7e9
PEAK_FLOPS, USE = 312e12, 0.4
"""An A100's dense bfloat16, and the share of it that a forward pass over long batches reaches."""
BYTES_PER_TOKEN = 4.0
DOCUMENT_BYTES = 2000
TEXT_ON_DISK = 0.5
"""Bytes of a corpus shard by bytes of text; zstd on English does better."""


@dataclass(frozen=True, slots=True)
class Size:
    """A corpus and the shards that suit it."""

    name: str
    tokens: float
    shard_bytes: int


SIZES = (Size("MiniPile", 1.8e9, 1_000_000), Size("1 T tokens", 1e12, 2_000_000))


@dataclass(frozen=True, slots=True)
class Figure:
    """A number and where it comes from."""

    value: float
    origin: str


def _result(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def figures() -> dict[str, Figure]:
    """What is known, by name; measured figures only where their file is there."""
    found: dict[str, Figure] = {}
    workers, corpus = _result("workers"), _result("corpus")
    sizes, coordinator = _result("capture_size"), _result("coordinator_scale")
    if workers is not None:
        for row in workers["hops"]:
            found[row["hop"]] = Figure(row["tokens_per_core_s"], f"workers.json, {row['hop']}, k = 10")
        for kind in ("aligned", "fused"):
            found[f"{kind} bytes"] = Figure(workers["bytes_per_target_token"][kind], "workers.json, an upper bound")
        found["message bytes"] = Figure(workers["broker_memory"]["bytes_per_message"], "workers.json")
        found["messages"] = Figure(workers["broker_memory"]["messages"], "workers.json")
        peaks = [peak for of_size in workers["peak_mb_per_process"].values() for peak in of_size.values()]
        found["process MB"] = Figure(max(peaks), "workers.json, shards of 262 kB")
    if sizes is not None:
        rows = [row for row in sizes["rows"] if row["kind"] == "captured" and row["k"] == 10]
        found["captured bytes"] = Figure(max(row["after"] for row in rows), "capture_size.json, k = 10")
        found["capture ns"] = Figure(max(row["write_ns_after"] for row in rows), "capture_size.json, writing")
    if corpus is not None:
        found["reading"] = Figure(corpus["value"], "corpus.json")
        found["reading memory"] = Figure(corpus["bytes_per_document"], "corpus.json")
    if coordinator is not None:
        found["look"] = Figure(_seconds_of_a_look(coordinator), "coordinator_scale.json, by tasks")
    return found


def _seconds_of_a_look(result: dict[str, Any]) -> float:
    """Seconds of the first look by task, listing included: the slowest one."""
    return float(result["simulated"]["first_look_s"]) / float(result["simulated"]["tasks"])


def rows_of(size: Size, known: dict[str, Figure]) -> list[tuple[str, str, str]]:
    """What, how much, from where."""
    text = size.tokens * BYTES_PER_TOKEN
    shards = -(-text // size.shard_bytes)
    tasks = shards * (2 * SOURCES + 1)
    forward = 2 * PARAMETERS * size.tokens / (PEAK_FLOPS * USE) / 3600
    derived = f"derived: 2·7e9 operations a token, {USE:.0%} of an A100's 312 TFLOP/s"
    rows = [
        ("text", _bytes(text), f"{BYTES_PER_TOKEN:g} bytes a token"),
        ("shards, tasks", f"{shards:,.0f}, {tasks:,.0f}", f"`corpus.shard_bytes: {size.shard_bytes}`"),
        ("capture, 3 sources of 7 B", f"{SOURCES * forward:,.0f} GPU-hours", derived),
        ("training a 7 B target, one epoch", f"{3 * forward:,.0f} GPU-hours", "derived: 6·7e9 operations a token"),
    ]
    documents = text / DOCUMENT_BYTES
    counted = {
        "reading": ("reading the corpus", lambda f: f"{text / 1e6 / f / 3600:,.1f} core-hours, one process"),
        "reading memory": ("memory of that", lambda f: _bytes(documents * f)),
        "capture ns": ("writing captures", lambda f: f"{SOURCES * size.tokens * f / 1e9 / 3600:,.1f} core-hours"),
        "align": ("align, 3 sources", lambda f: f"{SOURCES * size.tokens / f / 3600:,.0f} core-hours"),
        "fuse": ("fuse", lambda f: f"{size.tokens / f / 3600:,.1f} core-hours"),
        "captured bytes": ("captures, 3 sources", lambda f: _bytes(SOURCES * size.tokens * f)),
        "aligned bytes": ("aligned, 3 sources", lambda f: _bytes(SOURCES * size.tokens * f)),
        "fused bytes": ("fused", lambda f: _bytes(size.tokens * f)),
        "look": ("first look of a coordinator", lambda f: f"{tasks * f:,.1f} s"),
    }
    rows += [
        (title, shown(known[name].value), known[name].origin)
        for name, (title, shown) in counted.items()
        if name in known
    ]
    left_out = [title for name, (title, _) in counted.items() if name not in known]
    rows.append(("corpus shards", _bytes(text * TEXT_ON_DISK), "half of the text, assumed"))
    return rows + [(title, "not measured yet", "") for title in left_out]


def _bytes(count: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"


def markdown(known: dict[str, Figure]) -> str:
    columns = [rows_of(size, known) for size in SIZES]
    lines = ["| | " + " | ".join(size.name for size in SIZES) + " | from |", "|---|" + "---|" * (len(SIZES) + 1)]
    for row in zip(*columns, strict=True):
        origin = row[0][2] if row[0][2] == row[1][2] else "; ".join(part[2] for part in row)
        lines.append(f"| {row[0][0]} | " + " | ".join(part[1] for part in row) + f" | {origin} |")
    if "messages" in known:
        broker = _bytes(known["messages"].value * known["message bytes"].value)
        lines.append(f"| broker, at most | {broker} | {broker} | {known['messages'].origin} |")
    if "process MB" in known:
        peak = f"{known['process MB'].value:,.0f} MB"
        lines.append(f"| memory of a worker process | {peak} | more, by the shard | {known['process MB'].origin} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    known = figures()
    table = markdown(known)
    print(table)
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{START}{table}{END}{after}", encoding="utf-8")
    minipile = SIZES[0]
    gpu_hours = SOURCES * 2 * PARAMETERS * minipile.tokens / (PEAK_FLOPS * USE) / 3600
    write_result(
        "scale_plan",
        measure="GPU-hours of capturing MiniPile with three sources of 7 B, derived",
        value=round(gpu_hours, 1),
        unit="A100-hours",
        baseline=None,
        ratio=None,
        goal="none: a plan",
        figures={name: {"value": figure.value, "from": figure.origin} for name, figure in known.items()},
        rows={size.name: rows_of(size, known) for size in SIZES},
    )


if __name__ == "__main__":
    main()
