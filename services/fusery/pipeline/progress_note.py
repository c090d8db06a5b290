"""The table of a run's steps as its coordinator last showed it, kept in the store for those who look from elsewhere."""

from __future__ import annotations

import logging
from typing import Any

from fusery.errors import FuseryError, StoreFull
from fusery.formats.store import Store
from fusery.pipeline.progress import Line

log = logging.getLogger(__name__)


def board_name(run_id: str) -> str:
    return f"runs/{run_id}/board.json"


def keep_lines(store: Store, run_id: str, lines: list[dict[str, Any]]) -> None:
    """Writes the lines of a board; a store that does not take them costs nothing but the note.

    Raises:
        StoreFull: there is no room.
    """
    try:
        store.write_note(board_name(run_id), {"lines": lines})
    except StoreFull:
        raise
    except (FuseryError, OSError) as error:
        log.warning("the progress can't be kept: %s", error)


def read_board(store: Store, run_id: str) -> list[dict[str, Any]]:
    """The lines as `Board.to_json` gave them; none where there is no note that can be read."""
    try:
        note = store.read_note(board_name(run_id))
    except (FuseryError, OSError) as error:
        log.debug("no board of run %s: %s", run_id, error)
        return []
    return [] if note is None else list(note["lines"])


def kept_lines(store: Store, run_id: str) -> list[Line]:
    """What a coordinator elsewhere last showed."""
    return [line_of(content) for content in read_board(store, run_id)]


def line_of(content: dict[str, Any]) -> Line:
    """A line from its JSON values."""
    counts = {name: content[name] for name in ("note", "running", "failed", "dead", "bytes")}
    return Line(content["title"], content["done"], content["total"], content["unit"], **counts)
