"""Words of earlier versions, and the names in stores, which no new word changes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from fusery.config.file import read_run_file
from fusery.config.run import RunConfig
from fusery.config.sections import AlignmentSpec, FusionSpec
from fusery.hops.names import digest
from fusery.hops.plan import Hop, Plan, PlannedSource
from fusery.run.ablation.file import read_ablation
from fusery.runtime.errors import ConfigError

RUN: dict[str, Any] = {
    "name": "tiny",
    "target": {"model": "models/docs"},
    "sources": [{"name": "docs", "model": "models/docs"}, {"name": "python", "model": "models/python"}],
    "corpus": {"train": [{"path": "train.jsonl"}], "held_out": [{"path": "held_out.jsonl"}]},
}
TEXT = """\
name: tiny
target: {model: models/docs}
sources: [{name: docs, model: models/docs}, {name: python, model: models/python}]
corpus: {train: [{path: train.jsonl}], held_out: [{path: held_out.jsonl}]}
"""

NAMES = {
    "": (
        "5fa87b17e18cb5fc",
        "aligned/f51bda86422f3ae0b7d9a6b0a88a118e",
        "maps/4549fd17ac7c9dbebc6bdbd4371ac103.parquet",
        "fused/e4df3739b02b2e57a8cb2a2338e1b0f6",
        "3d63da888745014a1f9fb0f8a3d5b350",
    ),
    "alignment: {positions: mined, vocabulary: mined}\nfusion: {quality: token_ce, rule: avg_ce}": (
        "548fbc52ffc7aa33",
        "aligned/f45a712bbbe40b5117b831107491deaa",
        "maps/a5b31dfdcb1c96b82d16e873637a9397.parquet",
        "fused/d707a57640128a99f61320f5739c3885",
        "8b219e6326c5bea6584c2eaaa35d1422",
    ),
    "alignment: {positions: reference}": (
        "ecba76f86b02943e",
        "aligned/8c5765b508861b78124e86e0405349fa",
        "maps/9aca8ea81e872ae59d9e340e191feff9.parquet",
        "fused/df65b9101973c1c60262bfea24c5bd66",
        "ff822f2e2dae29abc2da4e73443a2ef3",
    ),
}
"""Sections of a YAML → the names that the first version gave: run, aligned shards, map, fused shards, plan."""


def plan_of(config: RunConfig) -> Plan:
    prints = (("docs", "a", "b"), ("python", "c", "d"))
    sources = [
        PlannedSource(name=name, model_fingerprint=m * 64, tokenizer_fingerprint=t * 64, vocabulary_size=100)
        for name, m, t in prints
    ]
    return Plan(
        run_id="tiny-0123456789",
        corpus_digest="e" * 64,
        corpus_shards=3,
        target_tokenizer_fingerprint="b" * 64,
        sources=tuple(sources),
        capture=config.capture,
        alignment=config.alignment,
        fusion=config.fusion,
    )


def written(folder: Path, sections: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(TEXT + sections + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("sections", NAMES)
def test_new_words_change_no_name_in_a_store(sections: str, tmp_path: Path) -> None:
    config = read_run_file(written(tmp_path, sections)).config
    plan = plan_of(config)
    found = (
        config.digest()[:16],
        plan.folder(Hop.ALIGN, "python"),
        plan.vocabulary_map("python"),
        plan.folder(Hop.FUSE),
        digest(plan.model_dump(mode="json")),
    )
    assert found == NAMES[sections]
    assert plan.folder(Hop.CAPTURE, "docs") == f"captures/{'a' * 16}/{'e' * 16}/k64-float16-b16384-v2"


@pytest.mark.parametrize("sections", NAMES)
def test_a_stored_plan_is_read_back(sections: str, tmp_path: Path) -> None:
    plan = plan_of(read_run_file(written(tmp_path, sections)).config)
    assert Plan.model_validate(plan.model_dump(mode="json")) == plan
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert plan.over_held_out("f" * 64, 2).corpus_shards == 2


def test_a_stored_plan_with_an_option_that_is_no_more_is_refused() -> None:
    content = plan_of(RunConfig.model_validate(RUN)).model_dump(mode="json")
    content["fusion"]["scope"] = "span"
    with pytest.raises(ValueError, match=r"fusion\.scope"):
        Plan.model_validate(content)


@pytest.mark.parametrize(
    ("old", "new", "warning"),
    [
        (
            "alignment: {positions: mined}",
            "alignment: {positions: dtw}",
            "alignment.positions: mined is called dtw now",
        ),
        ("alignment: {vocabulary: mined}", "alignment: {vocabulary: min_ed}", "vocabulary: mined is called min_ed now"),
        ("fusion: {quality: token_ce}", "fusion: {cost: token_ce}", "fusion.quality: quality is called cost now"),
    ],
)
def test_an_old_word_means_the_new_one_and_is_warned_of_with_its_line(
    old: str, new: str, warning: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = read_run_file(written(tmp_path, old)).config
    [said] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said.startswith(f"{tmp_path / 'run.yaml'}:5: ")
    assert warning in said
    caplog.clear()
    assert read_run_file(written(tmp_path, new)).config == config
    assert not caplog.records


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ("fusion: {scope: span}", "run.yaml:5: fusion.scope: the key was removed; leave it out"),
        ("fusion: {scope: document}", "run.yaml:5: fusion.scope: the key was removed; leave it out"),
        ("alignment: {disagreement: drop}", "run.yaml:5: alignment.disagreement: the key was removed; leave it out"),
        ("alignment: {fallback: next_token}", "run.yaml:5: alignment.fallback: next_token was removed; leave it out"),
        ("alignment:\n  vocabulary: first_piece", "run.yaml:6: alignment.vocabulary: first_piece was removed; take"),
        ("training: {tail: drop}", "run.yaml:5: training.tail: drop was removed; take tail"),
        ("services: {max_in_flight: 9}", "run.yaml:5: services.max_in_flight: the key was removed; leave it out"),
        ("fusion: {quality: token_ce, cost: token_ce}", "fusion.quality: it is called cost now, which is given too"),
        ("fusion: {rule: avg_ce_exp}", "avg_ce_exp goes with alignment: {positions: reference} only; take avg_ce"),
        ("alignment: {ties: diagonal_target_source}", "ties: goes with positions: reference only; leave it out"),
        ("alignment: {positions: reference, fallback: none}", "leave fallback out"),
    ],
)
def test_what_is_no_more_is_refused_with_what_to_do(sections: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_run_file(written(tmp_path, sections))
    assert says in str(caught.value)


def test_the_paper_s_own_choices_go_with_its_alignment(tmp_path: Path) -> None:
    ties = "alignment: {positions: reference, ties: diagonal_target_source}\nfusion: {rule: avg_ce_exp}"
    config = read_run_file(written(tmp_path, ties)).config
    assert (config.alignment.ties.value, config.fusion.rule.value) == ("diagonal_target_source", "avg_ce_exp")


def test_an_ablation_s_old_words_are_warned_of_where_they_stand(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path, "")
    path = tmp_path / "ablation.yaml"
    path.write_text("name: a\nrun: run.yaml\naxes:\n  alignment.vocabulary: [partition, mined]\n", encoding="utf-8")
    cases = read_ablation(path).cases
    assert [case.config.alignment.vocabulary.value for case in cases] == ["partition", "min_ed"]
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{path}:4: alignment.vocabulary: mined is called min_ed now")


def test_sections_made_in_code_take_old_words_too() -> None:
    assert AlignmentSpec.model_validate({"positions": "mined"}).positions.value == "dtw"
    assert FusionSpec.model_validate({"quality": "token_ce"}) == FusionSpec.model_validate({"cost": "token_ce"})
