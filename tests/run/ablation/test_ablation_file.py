"""An ablation's YAML: which cases it means, and every mistake with file, line and key."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fusery.core.rules import Fallback, Positions, Vocabulary
from fusery.run.ablation.file import AblationFile, label_of, read_ablation
from fusery.run.ablation.settings import check_key
from fusery.runtime.errors import ConfigError

RUN = """
name: base
target: {model: target}
sources: [{name: docs, model: docs}, {name: code, model: code}]
corpus: {train: [{path: train.jsonl}], held_out_share: 0.5}
training: {clm_weight: 0.9, learning_rate: 1.0e-3, checkpoint_every_steps: 100}
gate: {better_than: [target_before]}
"""
SECTIONS = ("capture", "alignment", "fusion", "training", "sources")


def ablation(folder: Path, text: str = "", **content: Any) -> AblationFile:
    """An ablation of `content`, or of `text`, beside its run."""
    (folder / "run.yaml").write_text(RUN)
    lines = text or (yaml.safe_dump(content, sort_keys=False) if content else "")
    (folder / "ablation.yaml").write_text(f"name: a\nrun: run.yaml\n{lines}")
    return read_ablation(folder / "ablation.yaml")


def refused(folder: Path, text: str = "", **content: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        ablation(folder, text, **content)
    return str(caught.value).replace(f"{folder}/", "")


def test_axes_are_multiplied_the_last_one_running_fastest(tmp_path: Path) -> None:
    found = ablation(tmp_path, axes={"fusion.rule": ["min_ce", "avg_ce"], "training.clm_weight": [0.9, 0.5]})
    assert [case.name for case in found.cases] == [
        *("min_ce, clm_weight 0.9", "min_ce, clm_weight 0.5"),
        *("avg_ce, clm_weight 0.9", "avg_ce, clm_weight 0.5"),
    ]
    assert [case.config.training.clm_weight for case in found.cases] == [0.9, 0.5, 0.9, 0.5]
    assert found.cases[0].labels == {"fusion.rule": "min_ce", "training.clm_weight": "0.9"}


def test_what_a_case_does_not_set_is_the_runs(tmp_path: Path) -> None:
    (case,) = ablation(tmp_path, axes={"training.clm_weight": [0.5]}).cases
    assert (case.config.training.learning_rate, case.config.capture.top_k) == (1e-3, 64)
    assert [source.name for source in case.config.sources] == ["docs", "code"]


def test_a_section_is_laid_over_the_runs_and_named_by_its_label(tmp_path: Path) -> None:
    axes = {"alignment": {"paper": {"positions": "reference"}, "ours": {}}, "sources": {"one": ["code"]}}
    paper, ours = ablation(tmp_path, axes=axes).cases
    assert (paper.name, ours.name) == ("paper, one", "ours, one")
    alignment = paper.config.alignment
    assert (alignment.positions, alignment.vocabulary, alignment.fallback) == (
        *(Positions.REFERENCE, Vocabulary.MIN_ED),
        Fallback.CURRENT_TOKEN,
    )
    assert [source.name for source in ours.config.sources] == ["code"]


def test_set_holds_for_all_cases_and_a_case_goes_over_it(tmp_path: Path) -> None:
    cases = [{"name": "usual"}, {"name": "long", "set": {"training.epochs": 5}}]
    found = ablation(tmp_path, set={"training.epochs": 3, "capture.top_k": 8}, cases=cases).cases
    assert [(case.config.training.epochs, case.config.capture.top_k) for case in found] == [(3, 8), (5, 8)]


def test_leaving_out_every_combination_is_a_mistake(tmp_path: Path) -> None:
    exclude = [{"where": {"training.epochs": epochs}, "why": "known"} for epochs in (1, 2)]
    message = refused(tmp_path, axes={"training.epochs": [1, 2]}, exclude=exclude)
    assert message == "ablation.yaml:7: exclude: leaves no case; expected at least one combination left"


@pytest.mark.parametrize(("repeat", "seeds"), [(3, (0, 1, 2)), ([4, 2], (4, 2)), (1, (0,))])
def test_repeat_counts_seeds_or_names_them(repeat: Any, seeds: tuple[int, ...], tmp_path: Path) -> None:
    assert ablation(tmp_path, axes={"training.epochs": [1]}, repeat=repeat).seeds == seeds


def test_excluded_combinations_are_left_out(tmp_path: Path) -> None:
    found = ablation(
        tmp_path,
        axes={"fusion.rule": ["min_ce", "avg_ce"], "capture.top_k": [8, 4]},
        exclude=[{"where": {"fusion.rule": "avg_ce", "capture.top_k": 4}, "why": "too few"}],
    )
    assert [case.name for case in found.cases] == ["min_ce, top_k 8", "min_ce, top_k 4", "avg_ce, top_k 8"]


VALUES = {
    "training.epochs": st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True),
    "capture.top_k": st.lists(st.integers(1, 64), min_size=1, max_size=3, unique=True),
    "training.clm_weight": st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=3, unique=True),
    "fusion.rule": st.lists(st.sampled_from(["min_ce", "avg_ce"]), min_size=1, max_size=2, unique=True),
}


@given(st.fixed_dictionaries({}, optional=VALUES).filter(bool))
def test_every_combination_is_one_case_with_its_own_name_and_settings(
    tmp_path_factory: pytest.TempPathFactory, axes: dict[str, list[Any]]
) -> None:
    found = ablation(tmp_path_factory.mktemp("a"), axes=axes)
    assert len(found.cases) == prod(len(values) for values in axes.values())
    assert len({case.name for case in found.cases}) == len(found.cases)
    assert len({case.config.digest() for case in found.cases}) == len(found.cases)
    for case in found.cases:
        for axis, label in case.labels.items():
            section, key = axis.split(".")
            assert label_of(case.config.model_dump(mode="json")[section][key]) == label


def test_a_wrong_value_is_named_with_its_line_and_key(tmp_path: Path) -> None:
    text = "axes:\n  fusion.rule: [min_ce, avg_ce]\n  training.clm_weight:\n    - 0.9\n    - 1.5\n"
    assert refused(tmp_path, text) == (
        "ablation.yaml:7: training.clm_weight: Input should be less than or equal to 1, got 1.5"
    )


def test_a_wrong_word_has_the_nearest_one_beside_it(tmp_path: Path) -> None:
    message = refused(tmp_path, axes={"fusion.rule": ["min_ce", "avg-ce"]})
    assert message.startswith("ablation.yaml:6: fusion.rule: ")
    assert message.endswith("got 'avg-ce'; did you mean 'avg_ce'?")


def test_an_unknown_key_of_a_section_has_the_nearest_one_beside_it(tmp_path: Path) -> None:
    message = refused(tmp_path, axes={"training.clm_wieght": [0.9]})
    assert message == "ablation.yaml:5: training.clm_wieght: unknown key; did you mean 'clm_weight'?"


def test_an_unknown_section_has_the_nearest_one_beside_it(tmp_path: Path) -> None:
    message = refused(tmp_path, axes={"trainig.epochs": [1]})
    assert message == "ablation.yaml:4: axes.trainig.epochs: unknown section; did you mean 'training'?"


@pytest.mark.parametrize("key", ["seed", "corpus.shard_bytes", "target", "gate.better_than", "evaluation", "services"])
def test_what_cases_must_share_is_refused_with_the_reason(key: str, tmp_path: Path) -> None:
    message = refused(tmp_path, cases=[{"name": "one", "set": {key: 1}}])
    assert message.startswith(f"ablation.yaml:6: cases.0.set.{key}: can't differ between cases: ")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    message = refused(tmp_path, axes={"training.epochs": [0], "capture.top_k": [0, 8], "fusion.temperature": [0]})
    assert sorted(line.split(": ")[1] for line in message.splitlines()) == [
        *("capture.top_k", "fusion.temperature", "training.epochs")
    ]


def test_values_that_do_not_go_together_name_their_case(tmp_path: Path) -> None:
    axes = {"alignment.positions": ["boundary", "reference"], "alignment.vocabulary": ["partition", "min_ed"]}
    message = refused(tmp_path, axes=axes)
    assert "case 'reference, partition': alignment: positions: reference needs vocabulary: min_ed" in message
    assert message.endswith("; leave it out with exclude")
    out = {"alignment.positions": "reference", "alignment.vocabulary": "partition"}
    assert len(ablation(tmp_path, axes=axes, exclude=[{"where": out, "why": "not the paper's"}]).cases) == 3


def test_an_unknown_source_has_the_nearest_one_beside_it(tmp_path: Path) -> None:
    message = refused(tmp_path, cases=[{"name": "one", "set": {"sources": ["docs", "cod"]}}])
    assert message == "ablation.yaml:6: sources: the run has no source 'cod'; did you mean 'code'?"


@pytest.mark.parametrize("sources", [[], "docs", None])
def test_sources_are_a_list_of_names(sources: Any, tmp_path: Path) -> None:
    assert refused(tmp_path, axes={"sources": [sources]}).startswith("ablation.yaml:")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "axes, cases: give one of them, got neither"),
        ({"axes": {"training.epochs": [1]}, "cases": [{"name": "one"}]}, "axes, cases: give one of them, got both"),
        ({"axes": {"training.epochs": []}}, "axes.training.epochs: no value; give at least one"),
        ({"axes": {"training.epochs": [1, 1]}}, "axes.training.epochs: the value 1 stands twice"),
        ({"axes": {"alignment": [{}], "alignment.ties": ["x"]}}, "alignment and alignment.ties set the same"),
        ({"axes": {"training": {"a": 3}}}, "training: Input should be"),
        ({"cases": [{"name": "one"}, {"name": "one", "set": {"training.epochs": 9}}]}, "'one' stands twice"),
        ({"cases": [{"name": "one"}, {"name": "two"}]}, "case 'two' is the same as 'one'; leave one of them out"),
        ({"cases": [{"name": "one"}], "exclude": [{"where": {"a": 1}, "why": "b"}]}, "exclude: goes with axes"),
        ({"axes": {"training.epochs": [1]}, "repeat": 0}, "repeat: expected 1 to 100 trainings of each case"),
        ({"axes": {"training.epochs": [1]}, "repeat": [1, 1]}, "repeat: expected different seeds of at least 0"),
        ({"axes": {"training.epochs": [1]}, "compare": ["ensembl"]}, "did you mean 'ensemble'?"),
        ({"axes": {"training.epochs": [1]}, "reapeat": 3}, "reapeat: unknown key; did you mean 'repeat'?"),
        ({"axes": {"training.epochs": list(range(1, 60)), "capture.top_k": list(range(1, 60))}}, "at most 1,000"),
    ],
)
def test_a_file_that_means_nothing_is_refused(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in refused(tmp_path, **content)


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        ({"training.clm_weight": 0.9}, "exclude.0.where.training.clm_weight: no such axis; expected training.epochs"),
        ({"training.epochs": 3}, "exclude.0.where.training.epochs: no value '3' there; expected 1, 2"),
    ],
)
def test_an_exclusion_names_axes_and_values_that_are_there(
    exclude: dict[str, Any], message: str, tmp_path: Path
) -> None:
    found = refused(tmp_path, axes={"training.epochs": [1, 2]}, exclude=[{"where": exclude, "why": "so"}])
    assert message in found


def test_an_exclusion_that_excludes_nothing_new_is_a_mistake(tmp_path: Path) -> None:
    twice = [{"where": {"training.epochs": 2}, "why": "slow"}] * 2
    content = {"axes": {"training.epochs": [1, 2]}, "exclude": [*twice[:1]]}
    assert len(ablation(tmp_path, **content).cases) == 1
    content["axes"] = {"training.epochs": [1, 2], "capture.top_k": [1, 2]}
    content["exclude"] = [*twice[:1], {"where": {"training.epochs": 2, "capture.top_k": 1}, "why": "slow too"}]
    assert len(ablation(tmp_path, **content).cases) == 2


def test_the_runs_own_mistakes_are_told_as_of_the_run(tmp_path: Path) -> None:
    ablation(tmp_path, cases=[{"name": "one"}])
    (tmp_path / "run.yaml").write_text(RUN.replace("clm_weight", "clm_wait"))
    with pytest.raises(ConfigError, match=r"run.yaml:6: training.clm_wait: unknown key"):
        read_ablation(tmp_path / "ablation.yaml")
    (tmp_path / "run.yaml").unlink()
    with pytest.raises(ConfigError, match=r"run.yaml: No such file or directory; expected a run's YAML file"):
        read_ablation(tmp_path / "ablation.yaml")


def test_a_missing_file_or_another_kind_of_yaml_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected an ablation's YAML file"):
        read_ablation(tmp_path / "nothing.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="expected a mapping with the keys name, run, axes, cases"):
        read_ablation(tmp_path / "list.yaml")


@given(st.sampled_from(SECTIONS[:-1]), st.from_regex(r"[a-z_]+", fullmatch=True))
def test_any_key_of_the_sections_that_decide_may_be_set(section: str, key: str) -> None:
    assert check_key(section) is None
    assert check_key(f"{section}.{key}") is None
    assert check_key(f"{section}.{key}.{key}") == f"expected {section}.KEY"
    assert check_key(f"{section}.") == f"expected {section}.KEY"


@pytest.mark.parametrize("name", ["tiny", "tiny-seeds"])
def test_the_examples_are_whole(name: str) -> None:
    found = read_ablation(Path(__file__).parents[3] / "examples" / "ablations" / f"{name}.yaml")
    assert len(found.cases) * len(found.seeds) == {"tiny": 48, "tiny-seeds": 20}[name]
