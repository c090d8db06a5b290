"""Runs that must be refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusery.run.open_run import open_run
from fusery.run.preflight.checks import check_run
from fusery.runtime.errors import FuseryError


def refused(file: Path, kind: type[FuseryError], match: str) -> str:
    """The message with which `file` is refused; nothing was done for it."""
    with pytest.raises(kind, match=match) as caught:
        check_run(open_run(file))
    assert type(caught.value) is kind
    assert caught.value.exit_code == 2
    assert_nothing_was_done(file)
    return str(caught.value)


def assert_nothing_was_done(file: Path) -> None:
    store = file.parent / "store"
    found = [path for path in store.rglob("*") if path.is_file()] if store.is_dir() else []
    assert found == []
