"""Arrow's own threads may abort a process that ends soon after they have read (apache/arrow#34314)."""

from __future__ import annotations

import subprocess
import sys

import pytest

_START = """
import os, sys
import pyarrow as pa, pyarrow.parquet as pq
from fusery.hops.store import shards
from fusery.hops.store.shards import CorpusDocument
from fusery.run.corpus.formats import CorpusFile
from fusery.run.corpus.formats import read_path
from pathlib import Path
path = Path(sys.argv[1])
pq.write_table(pa.table({"text": ["a", "b"], "domain": ["x", "y"]}), path)
content = shards.write_corpus([CorpusDocument("d", "x", "text")], {})
before = len(os.listdir("/proc/self/task"))
"""
_END = 'print(len(os.listdir("/proc/self/task")) - before)'


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize(
    ("read", "threads"),
    [
        ("shards.read_corpus(content)", 0),
        ("assert len(list(read_path(path, CorpusFile(path=str(path)), '0'))) == 2", 0),
        ("pq.read_table(path)", None),
    ],
    ids=["shard", "corpus", "arrow"],
)
def test_reading_starts_no_thread(read: str, threads: int | None, tmp_path: object) -> None:
    program = [
        sys.executable,
        "-c",
        f"{_START}\n{read}\n{_END}\nsys.stdout.flush()\nos._exit(0)",
        f"{tmp_path}/d.parquet",
    ]
    ended = subprocess.run(program, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    # Arrow's own way shows that the count sees its threads.
    assert int(ended.stdout) == threads if threads is not None else int(ended.stdout) > 0
