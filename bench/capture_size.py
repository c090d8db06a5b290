"""Bytes per token of every kind of shard, per column, and what writing and reading cost: format 2 against format 1.

    python bench/capture_size.py [--stores FOLDER…]      # after `make demo` and `make small-llms`

The shards are those of real runs (real text, real models), every source's. Captures of 64 entries are also cut to 10.
Format 1 kept log-probabilities as float16 values, ids as they are, byte ends as 32-bit numbers. Times are CPU seconds
of arrays → bytes → arrays, the best of nine, formats in turn.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from result_file import write_result

from fusery.core.topk import TopK
from fusery.hops.store import shards
from fusery.hops.store.shards import CapturedDocument
from fusery.hops.store.store import Store

ROOT = Path(__file__).parent.parent
FLOATS = ("log_probs", "next_log_probs", "weights")
REPEATS = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", nargs="+", type=Path, default=sorted(ROOT.glob("examples/work/*/store")))
    rows = [row for path in parser.parse_args().stores for row in of_store(path)]
    if not rows:
        raise SystemExit("no shards of format 2 in the stores; run make demo first")
    for row in rows:
        print("{kind:9} {of:44} k {k:3}  {before:6.1f} → {after:6.1f} bytes a {unit}".format(**row), end="  ")
        print("write ×{write_ratio:.2f}, read ×{read_ratio:.2f}".format(**row))
    at_10 = [row for row in rows if row["kind"] == "captured" and row["k"] == 10]
    worst = max(at_10, key=lambda row: row["after"])
    write_result(
        "capture_size",
        measure="bytes on disk per token and source, k = 10, the largest of all sources",
        value=worst["after"],
        unit="bytes per token",
        baseline={"what": "format 1, the same capture", "value": worst["before"], "unit": "bytes per token"},
        ratio=round(worst["after"] / worst["before"], 3),
        goal="at most 45 bytes per token and source; writing and reading at most 1.3 times slower",
        slowest_write_ratio=max(row["write_ratio"] for row in rows),
        slowest_read_ratio=max(row["read_ratio"] for row in rows),
        rows=rows,
    )


def of_store(path: Path) -> list[dict[str, Any]]:
    """A row for every capture (k = 64 and 10), and for one aligned and one fused folder."""
    store, name = Store(str(path)), path.parent.name
    rows = []
    for source in store.folders("captures"):
        for how in (how for corpus in store.folders(source) for how in store.folders(corpus) if how.endswith("-v2")):
            documents = [d for shard in store.listed(how) for d in shards.read_captured(store.read(shard))]
            of = f"{name}, source {source.rpartition('/')[2][:8]}"
            rows += [measured_capture(of, documents, k) for k in (64, 10) if k <= documents[0].top.k]
    for kind in ("aligned", "fused"):
        for folder in store.folders(kind)[:1]:
            rows.append(measured_table(name, kind, [store.read(shard) for shard in store.listed(folder)]))
    return rows


def measured_capture(of: str, documents: list[CapturedDocument], k: int) -> dict[str, Any]:
    cut = [replace(d, top=TopK(d.top.ids_RK[:, :k].copy(), d.top.log_probs_RK[:, :k].copy())) for d in documents]
    tokens = sum(len(document.token_ids_T) for document in cut)
    forms = {"before": (write_before, read_before), "after": (write_after, shards.read_captured)}
    row = {"kind": "captured", "of": of, "k": k, "unit": "token", "tokens": tokens}
    return row | compared(forms, cut, tokens)


def measured_table(of: str, kind: str, contents: list[bytes]) -> dict[str, Any]:
    """Aligned and fused shards have the columns that they had; only how they are encoded differs."""
    tables = [pq.read_table(pa.BufferReader(content)) for content in contents]
    table = pa.concat_tables(tables).combine_chunks()
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    evidence = len(columns["positions"].values)
    forms: dict[str, tuple[Callable[[Any], bytes], Callable[[bytes], Any]]] = {
        "before": (lambda _: write_options_before(table), read_table),
        "after": (lambda _: shards._write(kind, columns, {}), read_table),
    }
    k = round(len(columns["ids"].values) / max(evidence, 1))
    row = {"kind": kind, "of": f"{of}, {table.num_rows} documents", "k": k, "unit": "row", "rows": evidence}
    return row | compared(forms, None, evidence)


def compared(forms: dict[str, tuple[Callable[[Any], bytes], Callable[[bytes], Any]]], content: Any, per: int) -> Any:
    """Bytes in all and per column, and seconds, of both forms."""
    written = {form: write(content) for form, (write, _) in forms.items()}
    best: dict[tuple[str, str], float] = defaultdict(lambda: float("inf"))
    for _ in range(REPEATS):
        for form, (write, read) in forms.items():
            for what, act in (("write", lambda w=write: w(content)), ("read", lambda r=read, f=form: r(written[f]))):
                start = time.process_time()
                act()
                best[what, form] = min(best[what, form], time.process_time() - start)
    return {
        **{form: round(len(data) / per, 2) for form, data in written.items()},
        **{f"{w}_ratio": round(best[w, "after"] / best[w, "before"], 2) for w in ("write", "read")},
        **{f"{what}_ns_{form}": round(1e9 * seconds / per) for (what, form), seconds in best.items()},
        **{f"columns_{form}": columns_of(data, per) for form, data in written.items()},
    }


def columns_of(content: bytes, per: int) -> dict[str, float]:
    group = pq.read_metadata(pa.BufferReader(content)).row_group(0)
    columns = (group.column(index) for index in range(group.num_columns))
    return {c.path_in_schema.split(".")[0]: round(c.total_compressed_size / per, 3) for c in columns}


def write_after(documents: list[CapturedDocument]) -> bytes:
    return shards.write_captured(documents, {}, "float16")


def write_before(documents: list[CapturedDocument]) -> bytes:
    lists = {
        "token_ids": ([d.token_ids_T for d in documents], np.uint32),
        "byte_ends": ([d.byte_ends_T for d in documents], np.uint32),
        "next_log_probs": ([d.next_log_probs_T for d in documents], np.float32),
        "top_ids": ([d.top.ids_RK.ravel() for d in documents], np.uint32),
        "top_log_probs": ([d.top.log_probs_RK.ravel() for d in documents], np.float16),
    }
    columns = {name: shards._lists(arrays, dtype) for name, (arrays, dtype) in lists.items()}
    table = pa.table({"doc_id": pa.array([d.doc_id for d in documents]), **columns})
    return write_options_before(table.replace_schema_metadata({"k": str(documents[0].top.k)}))


def write_options_before(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    names = [name for name in FLOATS if name in table.column_names]
    pq.write_table(
        table,
        sink,
        compression="zstd",
        row_group_size=max(1, table.num_rows),
        use_dictionary=["domain"] if "domain" in table.column_names else False,
        use_byte_stream_split=[f"{name}.list.element" for name in names],
        write_statistics=False,
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read_table(content: bytes) -> pa.Table:
    return pq.read_table(pa.BufferReader(content))


def read_before(content: bytes) -> list[CapturedDocument]:
    table = read_table(content)
    k = int(table.schema.metadata[b"k"])
    names = ("token_ids", "byte_ends", "next_log_probs", "top_ids", "top_log_probs")
    dtypes = (np.int64, np.int64, np.float32, np.int64, np.float32)
    arrays = zip(*(shards._arrays(table, name, dtype) for name, dtype in zip(names, dtypes, strict=True)), strict=True)
    return [
        CapturedDocument(doc_id, tokens, ends, TopK(ids.reshape(-1, k), log_probs.reshape(-1, k)), following)
        for doc_id, (tokens, ends, following, ids, log_probs) in zip(table["doc_id"].to_pylist(), arrays, strict=True)
    ]


if __name__ == "__main__":
    main()
