"""The report of a run as files, and the record that goes to MLflow: made from a store, without any model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from fusery.evaluation.report import report as reports
from fusery.evaluation.report.gate import judge
from fusery.evaluation.report.report import Report
from fusery.evaluation.scores import Scores
from fusery.hops.capture import capture
from fusery.hops.plan import Hop, Plan, ShardTask
from fusery.registry.licences import run_licences
from fusery.registry.record import FusionRecord, Registered
from fusery.run.coverage import coverage_of, shares_of
from fusery.run.open_run import Run, open_run, publish_input
from fusery.run.steps import registration, steps
from fusery.run.steps import report as report_files
from fusery.run.steps.provenance import git_commit, lineage, of_training, origin
from fusery.run.steps.report import PAGE, report_step, write_report
from fusery.runtime.errors import ConfigError, GateFailed
from support.models.pico_models import pico_model
from support.runs.coverage_notes import KINDS, begun, begun_of, finish
from support.runs.pico_run import documents, write_corpus, write_run
from support.source.fake_source import FakeSource


def scores_of(mean: float) -> Scores:
    domains, rows = ("prose", "code") * 12, range(24)
    return Scores(tuple(f"d{i}" for i in rows), domains, tuple(mean * 100 + i % 3 for i in rows), (100,) * 24)


def evaluated(folder: Path, fused: float = 2.0, **sections: Any) -> tuple[Run, Plan]:
    """A run with everything that a report reads; the models are scores only."""
    run, plan = begun(folder, **sections)
    publish_input(run)
    for name, kind in KINDS.items():
        client: Any = FakeSource(kind)
        capture(run.store, plan, ShardTask(Hop.CAPTURE, name, 0), client)
    finish(run, plan)
    report = Report(
        run_id=run.run_id,
        target_before=scores_of(2.5),
        fused=scores_of(fused),
        clm=scores_of(2.2),
        sources={"prose": scores_of(3.0), "code": scores_of(2.8)},
        coverage=coverage_of(run.store, plan),
        wins=shares_of(run.store, plan),
        training=steps.settings_of(run),
        resamples=100,
    )
    run.folder.mkdir(parents=True, exist_ok=True)
    judged = Report.from_json(report.to_json() | {"verdict": judge(report, run.config.gate).to_json()})
    reports.write(judged, steps.evaluation_path(run))
    for clm_only in (False, True):
        training = steps.training_folder(run, plan, clm_only)
        training.mkdir(parents=True)
        (training / "metrics.jsonl").write_text(json.dumps({"step": 1, "clm_nats": 3.0, "elapsed_s": 1.0}) + "\n")
    return run, plan


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report."""
    run, plan = evaluated(tmp_path_factory.mktemp("report"))
    return write_report(run, plan)


def test_the_report_is_a_page_and_its_pictures(written: Path) -> None:
    names = sorted(path.name for path in written.iterdir())
    assert names == ["bits_per_byte.png", "coverage.png", "gains.png", PAGE, "training.png", "wins.png"]


def test_the_page_needs_nothing_else_and_is_small(written: Path) -> None:
    content = (written / PAGE).read_text(encoding="utf-8")
    assert len(content) < 5_000_000
    outside = unescape(content)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", outside)
    assert content.count("data:image/png;base64,") == 5
    assert "@import" not in outside


def test_the_page_has_verdict_measures_provenance_and_a_text_of_each_domain(written: Path) -> None:
    content = (written / PAGE).read_text(encoding="utf-8")
    assert "The gate passed" in content
    assert content.count("<iframe ") == 2
    for text in ("source prose", "licence.target", "apache-2.0", "manifest", "clm_weight: 0.5", "Gains"):
        assert text in content


def test_without_captures_the_report_has_no_sample_and_all_else(tmp_path: Path) -> None:
    run, plan = evaluated(tmp_path)
    shutil.rmtree(tmp_path / "store" / "captures")
    content = (write_report(run, plan) / PAGE).read_text(encoding="utf-8")
    assert "<iframe" not in content
    assert "Provenance" in content


def test_passwords_in_the_yaml_are_in_no_file_of_the_report(tmp_path: Path) -> None:
    services = {"tracking_uri": "http://mia:secret@mlflow:5000", "broker_url": "redis://:secret@broker/0"}
    run, plan = evaluated(tmp_path, services=services)
    folder = write_report(run, plan)
    assert "tracking_uri: http://***@mlflow:5000" in (folder / PAGE).read_text(encoding="utf-8")
    assert [path.name for path in folder.iterdir() if b"secret" in path.read_bytes()] == []


def test_a_page_may_be_written_elsewhere_where_there_is_a_folder(tmp_path: Path) -> None:
    run, _ = evaluated(tmp_path)
    page = report_step(run.file.path, tmp_path / "page.html")
    assert page.read_bytes() == (run.folder / "report" / PAGE).read_bytes()
    with pytest.raises(ConfigError, match="there is no folder"):
        report_step(run.file.path, tmp_path / "absent" / "page.html")


def test_a_run_that_is_not_evaluated_has_no_report(tmp_path: Path) -> None:
    run, plan = begun(tmp_path)
    with pytest.raises(ConfigError, match="is not evaluated yet; start it with: fusery run"):
        write_report(run, plan)


def test_lineage_names_models_licences_digests_rules_and_versions(tmp_path: Path) -> None:
    run, plan = evaluated(tmp_path)
    texts = lineage(run, plan, run_licences(run))
    assert texts["source.code"] == f"models/code {plan.source('code').model_fingerprint}"
    assert texts["licence.target"] == "apache-2.0 (README.md)"
    assert texts["corpus"] == plan.corpus_digest
    assert re.fullmatch("[0-9a-f]{32}", texts["target_weights"])
    assert "vocabulary partition" in texts["alignment"]
    assert (texts["clm_weight"], texts["top_k"], texts["licence"]) == ("0.5", "8", "apache-2.0")
    assert "torch 2" in texts["versions"]
    assert "git_commit" not in texts


def test_a_card_says_what_its_training_learned_from_and_the_baseline_has_no_sources(tmp_path: Path) -> None:
    run, plan = evaluated(tmp_path)
    fused, clm = (of_training(run, plan, clm_only) for clm_only in (False, True))
    assert fused.values == lineage(run, plan, run_licences(run))
    assert fused.origin.base_models == ("target", "prose", "code")
    assert {"fusion", "top_k", "clm_weight", "manifest", "source.code"} <= fused.values.keys() - clm.values.keys()
    assert clm.origin.base_models == ("target",)
    assert [key for key in clm.values if "code" in key or "prose" in key] == []
    alone = of_training(run, plan.of_source_alone("code"), clm_only=False)
    assert alone.origin.base_models == ("target", "code")
    assert [key for key in alone.values if "prose" in key] == []


def test_a_folder_under_git_gives_its_commit_and_whether_files_were_changed(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=x", "-c", "user.email=x@y", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    assert git_commit(tmp_path / "absent") is None
    git("init")
    assert git_commit(tmp_path) is None
    (tmp_path / "run.yaml").write_text("name: a")
    git("add", "run.yaml")
    git("commit", "-m", "first")
    commit = git_commit(tmp_path)
    assert commit is not None
    assert re.fullmatch(r"[0-9a-f]{40}", commit)
    (tmp_path / "run.yaml").write_text("name: b")
    assert git_commit(tmp_path) == f"{commit} with changes"


def test_the_card_names_models_of_this_machine_by_their_folder(tmp_path: Path) -> None:
    run, _ = begun(tmp_path)
    found = origin(run, run_licences(run))
    assert found.base_models == ("target", "prose", "code")
    assert [model.role for model in found.models] == ["target", "source prose", "source code"]
    assert (found.licence, found.datasets) == ("apache-2.0", ())


def test_folders_of_one_name_are_models_of_their_own_on_the_card(tmp_path: Path) -> None:
    sources = [{"name": name, "model": f"{name}/hf"} for name in ("a", "b")]
    sources += [{"name": "again", "model": "b/hf"}, {"name": "hub", "model": "hf", "address": "127.0.0.1:1"}]
    sources += [{"name": "server", "model": "tgi:http://gpu:8000", "address": "127.0.0.1:1"}]
    sources += [{"name": "named", "model": "vllm:http://gpu:8000", "tokenizer": "owner/x", "address": "127.0.0.1:1"}]
    sources += [{"name": "there", "model": "/srv/models/far", "address": "127.0.0.1:1"}]
    for name in ("a", "b"):
        shutil.copytree(pico_model("llama"), tmp_path / name / "hf")
    run = open_run(write_run(tmp_path, sources=sources))
    found = origin(run, run_licences(run))
    assert found.base_models == ("target", "hf-a", "hf-b", "hf", "server", "owner/x", "far")


def test_registration_writes_the_report_and_hands_over_the_whole_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, plan = evaluated(tmp_path)
    shutil.copytree(pico_model("llama"), steps.training_folder(run, plan, clm_only=False) / "model")
    given: list[FusionRecord] = []

    def register(record: FusionRecord, uri: str, artifacts: Path | None) -> Registered:
        given.append(record)
        return Registered(record.model_name, "1", "r", "models:/pico/1", record.alias if record.passed else None, True)

    monkeypatch.setenv("FUSERY_TRACKING_URI", "http://mia:secret@127.0.0.1:5000")
    monkeypatch.setattr(registration, "register", register)
    registered = registration.register_step(run.file.path)
    (record,) = given
    assert record.report_folder is not None
    assert (record.report_folder / PAGE).is_file()
    assert record.passed
    assert record.report_markdown.startswith("**gate passed**")
    assert record.register_command == f"fusery register {run.file.path}"
    assert registered["tracking_uri"] == "http://127.0.0.1:5000"
    assert run.store.read_note(f"{run.name}/registered.json") == registered


def test_a_licence_that_forbids_the_run_keeps_a_model_from_being_registered(tmp_path: Path) -> None:
    run, _ = evaluated(tmp_path)
    (tmp_path / "models" / "code" / "README.md").write_text("---\nlicense: llama2\n---\n")
    with pytest.raises(ConfigError, match="--accept-license llama2"):
        registration.register_step(run.file.path)


def test_a_failed_gate_ends_with_its_own_code_and_its_reasons(tmp_path: Path) -> None:
    run, _ = evaluated(tmp_path / "good")
    registration.check_gate(run)
    run, _ = evaluated(tmp_path / "bad", fused=2.3)
    with pytest.raises(GateFailed, match=r"everything is kept.*not held: fewer bits per byte than CLM") as error:
        registration.gate_of(run.file.path)
    assert error.value.exit_code == 4
    assert "held: fewer bits per byte than target before" not in str(error.value).replace("not held", "")


def test_a_name_needs_the_address_of_mlflow_to_be_promoted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set FUSERY_TRACKING_URI, or give a run's YAML"):
        registration.promote_step("tiny", None, None)


def test_a_promotion_says_how_to_take_it_back() -> None:
    done = registration.Promoted("tiny", "3", "2", "passed")
    assert registration.promoted_lines(done) == [
        "models:/tiny@champion is version 3 (gate passed)",
        "before it was version 2; back: fusery promote tiny --version 2",
    ]


@pytest.mark.parametrize("names", [["code", "prose"], ["prose", "code"], ["a", "b", "c"], ["a", "b", "c", "d", "e"]])
def test_there_is_a_text_of_each_domain_in_whichever_shard_it_begins(tmp_path: Path, names: list[str]) -> None:
    write_run(tmp_path)
    for side, seed in (("train", 1), ("held_out", 2)):
        rows = list(documents(8 * len(names), seed))
        sorted_rows = ({**row, "domain": names[i // 8]} for i, row in enumerate(rows))
        write_corpus(tmp_path / f"corpus/{side}.jsonl", sorted_rows)
    run, plan = begun_of(open_run(tmp_path / "run.yaml"))
    publish_input(run)
    for shard in range(plan.corpus_shards):
        for name, kind in KINDS.items():
            client: Any = FakeSource(kind)
            capture(run.store, plan, ShardTask(Hop.CAPTURE, name, shard), client)
    assert plan.corpus_shards > 1
    assert [sample.domain for sample in report_files._samples(run, plan)] == names[:3]
