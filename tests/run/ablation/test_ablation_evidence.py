"""What an ablation captures, and which cases share what is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fusery.hops.plan import Plan, PlannedSource
from fusery.run.ablation.evidence import captures, evidence_run
from fusery.run.ablation.opened import Ablation, open_ablation, plans_of
from fusery.run.open_run import publish_input
from support.runs.pico_run import write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with two sources, eight entries kept, whose texts are in the store."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    return folder


def opened(folder: Path, **content: object) -> Ablation:
    path = folder / "ablation.yaml"
    path.write_text(yaml.safe_dump({"name": "a", "run": "run.yaml", **content}, sort_keys=False))
    return open_ablation(path)


def asked(ablation: Ablation) -> list[Plan]:
    """What the sources would say of each group's captures."""
    found = []
    for group in ablation.groups:
        config, train = group.run.config, group.run.corpora.train
        sources = [
            PlannedSource(name=s.name, model_fingerprint=s.name * 9, tokenizer_fingerprint=s.name, vocabulary_size=99)
            for s in config.sources
        ]
        found.append(
            Plan(
                run_id=group.run.run_id,
                corpus_digest=train.digest,
                corpus_shards=train.shards,
                target_tokenizer_fingerprint="t",
                sources=tuple(sources),
                capture=config.capture,
                alignment=config.alignment,
                fusion=config.fusion,
            )
        )
    return found


def test_fewer_entries_than_the_runs_are_read_from_the_runs_own_captures(folder: Path) -> None:
    ablation = opened(folder, axes={"capture.top_k": [8, 3], "sources": [["code"], ["prose", "code"]]})
    (group,) = ablation.groups
    assert group.run is ablation.base
    assert set(group.cases) == {case.name for case in ablation.file.cases}


def test_captures_are_made_once_with_the_most_entries_of_all_sources(folder: Path) -> None:
    ablation = opened(folder, axes={"capture.top_k": [4, 32], "sources": [["code"]]})
    (group,) = ablation.groups
    assert (group.run.config.capture.top_k, len(group.run.config.sources)) == (32, 2)
    assert group.run.run_id != ablation.base.run_id


def test_another_number_format_is_captured_apart_for_the_sources_that_need_it(folder: Path) -> None:
    cases = [{"name": "usual"}, {"name": "exact", "set": {"capture.log_probs": "float32", "sources": ["code"]}}]
    usual, exact = opened(folder, cases=cases).groups
    assert ([*usual.cases], [*exact.cases]) == (["usual"], ["exact"])
    assert [source.name for source in exact.run.config.sources] == ["code"]


def test_cases_that_differ_in_training_alone_share_their_evidence_and_all_share_clm(folder: Path) -> None:
    ablation = opened(folder, axes={"training.clm_weight": [0.9, 0.5], "fusion.rule": ["min_ce", "avg_ce"]}, repeat=2)
    plans = plans_of(ablation, asked(ablation))
    of = {case.name: plans.of_cases[case.name].run_id for case in ablation.file.cases}
    assert of["clm_weight 0.9, min_ce"] == of["clm_weight 0.5, min_ce"] == ablation.base.run_id
    assert of["clm_weight 0.9, avg_ce"] == of["clm_weight 0.5, avg_ce"] != ablation.base.run_id
    missing = plans.missing()
    assert [one.clm_only for one in missing.values()].count(True) == 2
    assert len(missing) == 2 * 4 + 2


def test_a_plan_of_one_source_is_the_same_whether_the_others_are_asked_too(folder: Path) -> None:
    both = opened(folder, cases=[{"name": "code", "set": {"sources": ["code"]}}, {"name": "usual"}])
    alone = opened(folder, cases=[{"name": "code", "set": {"sources": ["code"]}}])
    plans = [plans_of(ablation, asked(ablation)).of_cases["code"] for ablation in (both, alone)]
    assert plans[0] == plans[1]
    assert [source.name for source in plans[0].sources] == ["code"]


def test_the_id_is_of_cases_seeds_and_what_is_compared_and_of_no_name_of_a_file(folder: Path) -> None:
    ids = [
        opened(folder, cases=[{"name": "one"}]).ablation_id,
        opened(folder, cases=[{"name": "one"}], repeat=2).ablation_id,
        opened(folder, cases=[{"name": "one"}], compare=["ensemble"]).ablation_id,
        opened(folder, cases=[{"name": "one", "set": {"training.epochs": 2}}]).ablation_id,
    ]
    assert len(set(ids)) == 4
    assert opened(folder, cases=[{"name": "one"}], keep_models=True).ablation_id == ids[0]


def test_reading_an_ablation_writes_nothing(folder: Path) -> None:
    ablation = opened(folder, cases=[{"name": "one"}])
    assert not (folder / "store").exists()
    assert evidence_run(ablation.base, ablation.base.config) is ablation.base
    assert len(captures(ablation.base, {})) == 1
    publish_input(ablation.base)
    assert open_ablation(folder / "ablation.yaml").ablation_id == ablation.ablation_id
