"""Where a licence is read: a card's header, a licence file, the Hub's card; and when none is stated."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusery.registry.stated_licence import StatedLicence, licence_in_text, licences_in_card, stated_licence


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: Apache-2.0\n---\n# A model", ("apache-2.0",)),
        ("---\r\nlicense: llama2\r\n---\r\n", ("llama2",)),
        ("---\nlicense:\n- mit\n- apache-2.0\n---", ("mit", "apache-2.0")),
        ("---\nlicense: [apache-2.0, llama2, apache-2.0]\n---", ("apache-2.0", "llama2")),
        ("---\nlicense: [mit, other]\nlicense_name: my-terms\n---", ("mit", "my-terms")),
        ("---\nlicense: [mit, other]\n---", ("mit", None)),
        ("---\nlicense: [mit, {a: b}]\n---", ("mit", None)),
        ("---\nlicense: other\nlicense_name: gemma\n---\n", ("gemma",)),
        ("---\nlicense: other\n---\n", (None,)),
        ("---\ntags: [a]\n---\n", (None,)),
        ("---\nlicense: []\n---\n", ()),
        ("---\n: [\n---\n", ()),
        ("---\n- a\n---\n", ()),
        ("# license: mit", ()),
        ("", ()),
    ],
)
def test_a_card_states_all_its_licences_in_its_header(card: str, expected: tuple[str | None, ...]) -> None:
    assert licences_in_card(card) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "                                 Apache License\n                           Version 2.0, January 2004",
            "apache-2.0",
        ),
        (
            "Copyright 2018- The Team. All rights reserved.\n\n  Apache License\n  Version 2.0, January 2004",
            "apache-2.0",
        ),
        ("Apache License, Version 2.0", "apache-2.0"),
        ("MIT License\n\nCopyright (c) 2024", "mit"),
        ("# The MIT License (MIT)\n", "mit"),
        ("Copyright (c) 2024 X\n\nPermission is hereby granted, free of charge, to any person", "mit"),
        ("BSD 3-Clause License\n\nCopyright (c) 2024", "bsd-3-clause"),
        (
            "Copyright (c) X\n\nRedistribution and use … NEITHER THE NAME OF X NOR THE NAMES OF ITS\nCONTRIBUTORS",
            "bsd-3-clause",
        ),
        ("LLAMA 2 COMMUNITY LICENSE AGREEMENT\nLlama 2 Version Release Date: July 18, 2023", "llama2"),
        ("META LLAMA 3 COMMUNITY LICENSE AGREEMENT", "llama3"),
        ("LLAMA 3.2 COMMUNITY LICENSE AGREEMENT", "llama3.2"),
        ("Gemma Terms of Use\n\nLast modified: March 24, 2025", "gemma"),
        ("Redistribution … Neither the name of X nor the names of its\ncontributors may be used", "bsd-3-clause"),
        ("All rights reserved.", None),
        ("", None),
    ],
)
def test_a_licence_file_is_told_by_its_title(text: str, expected: str | None) -> None:
    assert licence_in_text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Falcon LLM License. The accompanying code is under the MIT License; the weights are for research only.",
        "MIT License for the code, the weights are for research only",
        "My terms\n\nThird parties: MIT License\nPermission is hereby granted, free of charge",
        "Research terms. Neither the name of X nor the names of its contributors",
        "Like the Apache License Version 2.0, but without section 2",
    ],
)
def test_a_licence_that_a_text_only_speaks_of_is_not_the_texts_own(text: str) -> None:
    assert licence_in_text(text) is None


def test_a_folders_card_and_its_licence_files_all_count(tmp_path: Path) -> None:
    (tmp_path / "LICENSE.txt").write_text("MIT License")
    assert stated_licence(str(tmp_path)) == StatedLicence(("mit",), "LICENSE.txt")
    (tmp_path / "README.md").write_text("---\nlicense: gemma\n---\n")
    assert stated_licence(str(tmp_path)) == StatedLicence(("gemma", "mit"), "README.md, LICENSE.txt")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert stated_licence(str(tmp_path)) == StatedLicence(("mit",), "README.md")


@pytest.mark.parametrize("name", ["LICENSE-MODEL", "MODEL_LICENSE", "COPYING.md", "terms_of_use.txt"])
def test_a_file_that_cannot_be_told_counts_unless_the_card_states_a_licence(name: str, tmp_path: Path) -> None:
    (tmp_path / "LICENSE-CODE").write_text("MIT License")
    (tmp_path / name).write_text("MY LICENSE AGREEMENT\nVersion 1.0, 23 October 2023")
    assert set(stated_licence(str(tmp_path)).ids) == {"mit", None}
    (tmp_path / "README.md").write_text("---\nlicense: openrail\n---\n")
    assert set(stated_licence(str(tmp_path)).ids) == {"mit", "openrail"}


def test_a_byte_order_mark_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("\ufeffMIT License", encoding="utf-8")
    assert stated_licence(str(tmp_path)).ids == ("mit",)
    (tmp_path / "README.md").write_text("\ufeff---\nlicense: llama2\n---\n", encoding="utf-8")
    assert stated_licence(str(tmp_path)).ids == ("llama2", "mit")


def test_a_folder_that_states_nothing_has_no_licence(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_bytes(b"\xff\xfe all rights reserved")
    assert stated_licence(str(tmp_path)).ids == (None,)


def test_a_hub_that_is_out_of_reach_leaves_the_licence_unknown() -> None:
    stated = stated_licence("nobody/nothing-of-the-kind")
    assert stated.ids == (None,)
    assert "can't be had from the Hub" in stated.found_in


def test_the_card_on_the_hub_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: llama2\n---\n")
    asked: list[tuple[object, ...]] = []

    def download(*given: object, **options: object) -> str:
        asked.append((*given, options["revision"]))
        return str(card)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert stated_licence("owner/model", "abc") == StatedLicence(("llama2",), "its card on the Hub")
    assert asked == [("owner/model", "README.md", "abc")]


@pytest.mark.parametrize("name", ["x" * 97, "a\\x1b[2J", "a\\u202eb"])
def test_a_licence_whose_name_is_no_short_line_is_unknown(name: str) -> None:
    assert licences_in_card(f'---\nlicense: other\nlicense_name: "{name}"\n---\n') == (None,)
    assert licences_in_card('---\nlicense: "My\\n  Licence"\n---\n') == ("my licence",)
