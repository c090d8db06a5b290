"""What a worker does before it forks."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys
from fusery.hops.worker.command import import_for_children
import fusery.hops.tables
import_for_children()
before = {name.partition(".")[0] for name in sys.modules}
from fusery.hops.store import shards
from fusery.hops.store.shards import CorpusDocument
shards.read_corpus(shards.write_corpus([CorpusDocument("d", "x", "text")], {}))
print(sorted({name.partition(".")[0] for name in sys.modules} - before))
"""


def test_a_child_imports_nothing_at_its_first_shard() -> None:
    ended = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "[]"
