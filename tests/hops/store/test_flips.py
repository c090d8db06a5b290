from __future__ import annotations

from pathlib import Path

from support.store.damaging import campaign


def test_random_damage_to_any_file_is_found_and_mended_with_equal_bytes(tmp_path: Path) -> None:
    found = campaign(tmp_path, blows=65, seed=1)
    assert not found.not_found
    assert not found.not_mended
    assert sum(found.hits.values()) == 65
    # Six kinds of artefacts, the entries of each, and notes.
    assert len(found.hits) == 13
    assert found.truncated > 0
