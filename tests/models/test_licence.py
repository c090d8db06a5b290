"""Where a licence is read: a card's header, a licence file, the Hub's card; and when none is stated."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusery.models.licence import StatedLicence, licence_in_card, licence_in_text, stated_licence


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: Apache-2.0\n---\n# A model", "apache-2.0"),
        ("---\nlicense:\n- mit\n- apache-2.0\n---", "mit"),
        ("---\nlicense: other\nlicense_name: gemma\n---\n", "gemma"),
        ("---\nlicense: other\n---\n", None),
        ("---\ntags: [a]\n---\n", None),
        ("---\n: [\n---\n", None),
        ("---\n- a\n---\n", None),
        ("# license: mit", None),
        ("", None),
    ],
)
def test_a_card_states_its_licence_in_its_header(card: str, expected: str | None) -> None:
    assert licence_in_card(card) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "                                 Apache License\n                           Version 2.0, January 2004",
            "apache-2.0",
        ),
        ("MIT License\n\nCopyright (c) 2024", "mit"),
        ("LLAMA 2 COMMUNITY LICENSE AGREEMENT\nLlama 2 Version Release Date: July 18, 2023", "llama2"),
        ("META LLAMA 3 COMMUNITY LICENSE AGREEMENT", "llama3"),
        ("LLAMA 3.2 COMMUNITY LICENSE AGREEMENT", "llama3.2"),
        ("Gemma Terms of Use\n\nLast modified: March 24, 2025", "gemma"),
        ("Redistribution … Neither the name of X nor the names of its\ncontributors may be used", "bsd-3-clause"),
        ("All rights reserved.", None),
    ],
)
def test_a_licence_file_is_told_by_its_title(text: str, expected: str | None) -> None:
    assert licence_in_text(text) == expected


def test_a_folder_is_asked_for_its_card_and_then_for_its_licence_file(tmp_path: Path) -> None:
    (tmp_path / "LICENSE.txt").write_text("MIT License")
    assert stated_licence(str(tmp_path)) == StatedLicence("mit", "LICENSE.txt")
    (tmp_path / "README.md").write_text("---\nlicense: gemma\n---\n")
    assert stated_licence(str(tmp_path)) == StatedLicence("gemma", "README.md")


def test_a_folder_that_states_nothing_has_no_licence(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_bytes(b"\xff\xfe all rights reserved")
    assert stated_licence(str(tmp_path)).id is None


def test_a_hub_that_is_out_of_reach_leaves_the_licence_unknown() -> None:
    stated = stated_licence("nobody/nothing-of-the-kind")
    assert stated.id is None
    assert "can't be had from the Hub" in stated.found_in


def test_the_card_on_the_hub_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: llama2\n---\n")
    asked: list[tuple[object, ...]] = []

    def download(*given: object, **options: object) -> str:
        asked.append((*given, options["revision"]))
        return str(card)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert stated_licence("owner/model", "abc") == StatedLicence("llama2", "its card on the Hub")
    assert asked == [("owner/model", "README.md", "abc")]
