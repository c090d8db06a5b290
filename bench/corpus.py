"""Reading a corpus: megabytes of text per second, and memory at two sizes of it.

    python bench/corpus.py [--megabytes 40 160]

JSON lines of Python's own documentation, every document numbered so that none stands twice. Three commands as a user
gives them: the first look (`scan`), the writing of the shards, and the next command, which finds both in the store.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from pydoc_data.topics import topics  # type: ignore[import-untyped]

from memory import peak_mb
from result_file import write_result

DOCUMENT_BYTES = 2000


def write_lines(path: Path, megabytes: int) -> int:
    """The number of documents."""
    text = "\n".join(topics[name] for name in sorted(topics))
    count = megabytes * 1_000_000 // DOCUMENT_BYTES
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            start = number * 1999 % (len(text) - DOCUMENT_BYTES)
            file.write(json.dumps({"text": f"{number} {text[start : start + DOCUMENT_BYTES - 8]}"}) + "\n")
    return count


def steps_of(folder: Path) -> list[tuple[str, Callable[[], object]]]:
    from fusery.hops.store.store import Store
    from fusery.run.corpus.corpora import open_corpora, publish_corpora
    from support.runs.corpus_runs import run_of

    run, store = run_of(folder), Store(str(folder / "store"))
    found: list[Any] = []
    return [
        ("scan", lambda: found.append(open_corpora(run, store))),
        ("publish", lambda: publish_corpora(run, found[0], store)),
        ("next command", lambda: open_corpora(run, store)),
    ]


def measured(megabytes: int) -> list[dict[str, Any]]:
    """Seconds and peak megabytes of each step."""
    with tempfile.TemporaryDirectory() as name:
        documents = write_lines(Path(name) / "train.jsonl", megabytes)
        (Path(name) / "held_out.jsonl").write_text('{"text": "held out"}\n')
        rows = []
        for step, call in steps_of(Path(name)):
            cpu, start = time.process_time(), time.perf_counter()
            peak = peak_mb(call)
            row = {"step": step, "megabytes": megabytes, "documents": documents, "peak_mb": round(peak, 1)}
            row |= {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
            row["megabytes_per_cpu_s"] = megabytes / max(row["cpu_s"], 1e-9)
            rows.append(row)
            print(f"{megabytes} MB {step:13} {row['cpu_s']:7.2f} CPU-s, peak {peak:.1f} MB", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs=2, default=[40, 160])
    given = parser.parse_args()
    table = []
    for megabytes in given.megabytes:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            table += pool.apply(measured, (megabytes,))
    small, large = (sum(row["cpu_s"] for row in table if row["megabytes"] == size) for size in given.megabytes)
    peaks = [row["peak_mb"] for row in table if row["step"] == "scan"]
    more_documents = (given.megabytes[1] - given.megabytes[0]) * 1_000_000 // DOCUMENT_BYTES
    write_result(
        "corpus",
        measure="text read twice, split, compared, written as shards",
        value=round(given.megabytes[1] / large, 1),
        unit="MB of text per CPU-second",
        baseline={"what": f"{given.megabytes[0]} MB", "value": round(given.megabytes[0] / small, 1)},
        ratio=None,
        goal="memory: a shard and some tens of bytes a document",
        bytes_per_document=round((peaks[1] - peaks[0]) * 2**20 / more_documents, 1),
        table=table,
    )


if __name__ == "__main__":
    main()
