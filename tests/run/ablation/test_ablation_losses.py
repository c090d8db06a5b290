"""What an ablation lacks or loses on its way, and which cases that costs: no others, and never a word."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console

from fusery.evaluation.scores import Scores
from fusery.hops.names import attempts_folder, captures_folder
from fusery.hops.names import capture_name as name_of_capture
from fusery.hops.plan import Hop, Plan, PlannedSource, ShardTask
from fusery.run.ablation import comparisons, evidence, opened
from fusery.run.ablation import run as ablate
from fusery.run.ablation.evidence import Asked
from fusery.run.ablation.opened import Ablation, Plans, finished_runs, open_ablation, plans_of, table_of
from fusery.run.board import Board
from fusery.run.coordinator import execution
from fusery.run.coordinator.progress import DeadLetter, Progress
from fusery.runtime.errors import ConfigError, StoreFull, Unavailable
from fusery.runtime.processes import Supervisor
from support.runs.pico_run import write_run

BOARD = Board(Console(file=io.StringIO()))
RULES = {"fusion.rule": ["min_ce", "avg_ce"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with the sources prose and code, eight entries kept."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    return folder


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_STORE", str(tmp_path / "store"))


def open_of(folder: Path, **content: object) -> Ablation:
    path = folder / "ablation.yaml"
    path.write_text(yaml.safe_dump({"name": "a", "run": "run.yaml", **content}, sort_keys=False))
    return open_ablation(path)


def asked(ablation: Ablation, captured_top_k: int | None = None) -> list[Plan]:
    """What the sources would say of each group's captures."""

    def source(name: str) -> PlannedSource:
        prints = {"model_fingerprint": name * 9, "tokenizer_fingerprint": name}
        return PlannedSource(name=name, **prints, vocabulary_size=99, captured_top_k=captured_top_k)

    runs = [group.run for group in ablation.groups]
    sources = [[source(spec.name) for spec in run.config.sources] for run in runs]
    return [evidence.plan_with(run, "t", of) for run, of in zip(runs, sources, strict=True)]


def capture_all(ablation: Ablation, top_k: int) -> None:
    train, capture = ablation.base.corpora.train, ablation.base.config.capture
    for source in ("prose", "code"):
        place = f"{captures_folder(source * 9, train.digest)}/{name_of_capture(capture, top_k)}"
        for shard in range(train.shards):
            ablation.base.store.publish(f"{place}/shard-{shard:05d}.parquet", b"captured")


def keep_tokenizers(ablation: Ablation, *fingerprints: str) -> None:
    for fingerprint in fingerprints:
        ablation.base.store.publish(f"tokenizers/{fingerprint}.json", b"{}")


def measured(ablation: Ablation, plans: Plans, name: str, clm_only: bool) -> None:
    """Puts scores of a case's training into the store."""
    scores = Scores(("a", "b"), ("prose", "code"), (8.0, 16.0), (2, 2))
    for pair in plans.trainings[name]:
        name = pair[1 if clm_only else 0].scores
        ablation.base.store.publish(name, json.dumps(scores.to_json()).encode())


class Workers:
    """A broker that does what it is told at once: `damaged` shards' captures are found so, all else is made."""

    def __init__(self, ablation: Ablation, plans: Sequence[Plan], damaged: Mapping[str, ShardTask]) -> None:
        self.store, self.plans = ablation.base.store, {plan.run_id: plan for plan in plans}
        self.damaged = dict(damaged)
        self.published: list[str] = []

    def __call__(self, _url: str, run_id: str, launch: str) -> Any:
        def publish(task: ShardTask, _failures: int) -> bool:
            self.published.append(task.key)
            if task.hop is not Hop.CAPTURE:
                self._work(run_id, launch, task)
            return True

        @contextmanager
        def publisher() -> Iterator[Any]:
            yield SimpleNamespace(publish=publish, queue_is_empty=lambda _: False)

        return publisher()

    def _work(self, run_id: str, launch: str, task: ShardTask) -> None:
        plan = self.plans[run_id]
        if task != self.damaged.get(run_id):
            self.store.publish(plan.artefact(task), b"made")
            return
        self.store.discard(plan.artefact(ShardTask(Hop.CAPTURE, task.source, task.shard)))
        note = {"task": task.key, "reason": "SHA-256", "error": "Corrupt", "retryable": True, "documents": []}
        self.store.write_note(f"{attempts_folder(run_id, launch)}/{task.key}.1.json", note)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        @contextmanager
        def workers(_: object) -> Iterator[tuple[str, Supervisor]]:
            yield "redis://nowhere", Supervisor()

        monkeypatch.setattr(evidence, "_workers", workers)
        monkeypatch.setattr(execution, "Publisher", self)


def test_a_capture_of_more_entries_than_any_case_uses_serves_all_of_them(folder: Path) -> None:
    ablation = open_of(folder, axes={"capture.top_k": [8, 3]})
    capture_all(ablation, 64)
    plans = plans_of(ablation, asked(ablation, captured_top_k=64))
    found = [source.captured_top_k for plan in plans.of_cases.values() for source in plan.sources]
    assert found == [64] * 4
    assert evidence.is_captured(plans.base)


def test_a_capture_that_is_found_damaged_fails_its_case_with_a_word_and_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [
        {"name": "code alone", "set": {"sources": ["code"]}},
        {"name": "prose alone", "set": {"sources": ["prose"]}},
    ]
    ablation = open_of(folder, cases=cases)
    capture_all(ablation, 8)
    code, prose = plans_of(ablation, asked(ablation)).of_cases.values()
    workers = Workers(ablation, [code, prose], {code.run_id: ShardTask(Hop.ALIGN, "code", 1)})
    workers.install(monkeypatch)
    failed = evidence.fuse(ablation.base, [code, prose], {}, "launch", BOARD)
    assert failed == {
        code.run_id: "a capture of source code was damaged or removed; run the same command again, which asks the "
        "source for it"
    }
    assert "capture-code-00001" in workers.published
    assert not evidence.is_fused(ablation.base, code)
    assert evidence.is_fused(ablation.base, prose)
    # The next start asks the source.
    assert not evidence.is_captured(plans_of(ablation, asked(ablation)).of_cases["code alone"])


def test_a_source_is_asked_again_for_a_tokenizer_that_is_gone(folder: Path) -> None:
    ablation = open_of(folder, axes=RULES)
    capture_all(ablation, 8)
    keep_tokenizers(ablation, "t", "code", "prose")
    plans, group = plans_of(ablation, asked(ablation)), ablation.groups[0]
    assert not ablate._must_ask(ablation, plans, group)
    ablation.base.store.discard("tokenizers/code.json")
    assert ablate._must_ask(ablation, plans, group)
    for name in plans.trainings:
        measured(ablation, plans, name, clm_only=False)
    measured(ablation, plans, "min_ce", clm_only=True)
    assert not ablate._must_ask(ablation, plans, group)


def test_the_yaml_is_copied_before_any_evidence_is_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ablation = open_of(folder, axes=RULES)

    class Captured(Exception):
        pass

    def evidence_plans(*_: object) -> Plans:
        assert (ablation.folder / "run.yaml").read_bytes() == ablation.base.file.path.read_bytes()
        raise Captured

    monkeypatch.setattr(ablate, "_evidence_plans", evidence_plans)
    with pytest.raises(Captured):
        ablate._carry_out(ablation, 1, BOARD)


def test_a_baseline_reads_the_text_of_the_first_case_that_has_one(folder: Path) -> None:
    ablation = open_of(folder, axes={"fusion.temperature": [1.0, 2.0, 3.0]})
    plans = plans_of(ablation, asked(ablation))
    runs = [plan.run_id for plan in plans.of_cases.values()]

    def clm(failed: Sequence[str]) -> list[str]:
        missing = plans.missing(failed=failed)
        return [one.plan.run_id for one in missing.values() if one.clm_only]

    assert clm([]) == clm(runs[2:]) == [runs[0]]
    assert clm(runs[:1]) == clm([runs[0], runs[2]]) == [runs[1]]
    assert clm(runs[:2]) == [runs[2]]
    assert clm(runs) == []


def test_text_that_a_baseline_moves_to_is_fused_for_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ablation = open_of(folder, axes=RULES)
    plans = plans_of(ablation, asked(ablation))
    first, second = plans.of_cases.values()
    measured(ablation, plans, "avg_ce", clm_only=False)
    fused: list[list[str]] = []

    def fuse(_base: object, to_fuse: Sequence[Plan], *_: object) -> dict[str, str]:
        fused.append([plan.run_id for plan in to_fuse])
        return {first.run_id: "no space"} if first in to_fuse else {}

    monkeypatch.setattr(evidence, "fuse", fuse)
    assert ablate._fuse(ablation.base, plans, "launch", BOARD) == {first.run_id: "no space"}
    assert fused == [[first.run_id], [second.run_id]]


def test_shards_that_a_source_could_not_give_are_told_by_source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ablation = open_of(folder, axes=RULES, compare=["sources"])
    (plan,), letters = asked(ablation), [DeadLetter(ShardTask(Hop.CAPTURE, "code", n), "poison") for n in (3, 4)]
    measures: list[Exception] = [Unavailable("away"), StoreFull("full")]

    @contextmanager
    def services(_: object) -> Iterator[None]:
        yield None

    def measure_sources(*_: object) -> None:
        raise measures.pop(0)

    monkeypatch.setattr(evidence.local, "services", services)
    monkeypatch.setattr(evidence, "plan_of", lambda *_: plan)
    monkeypatch.setattr(evidence, "hops_job", lambda *_: None)
    monkeypatch.setattr(evidence, "coordinate", lambda *_: Progress((), tuple(letters)))
    monkeypatch.setattr(evidence, "measure_sources", measure_sources)
    target: Any = None
    what = (ablation.groups[0], ablation.base, target)
    reason = "capture-code-00003 failed for good: poison (and 1 more shards)"
    assert evidence.capture(*what, True, "launch", BOARD) == Asked(plan, {"code": reason}, "away")
    with pytest.raises(StoreFull):
        evidence.capture(*what, True, "launch", BOARD)


def test_a_source_without_captures_costs_the_cases_that_read_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = {"sources": [["code"], ["prose"], ["prose", "code"]]}
    ablation = open_of(folder, axes=axes, compare=["sources"])
    capture_all(ablation, 8)
    (plan,) = asked(ablation)
    lost = plan.folder(Hop.CAPTURE, "code")
    ablation.base.store.discard(f"{lost}/shard-00000.parquet")
    monkeypatch.setattr(ablate, "_checked_target", lambda _: None)
    monkeypatch.setattr(ablate, "publish_tokenizer", lambda *_: None)
    monkeypatch.setattr(evidence, "capture", lambda *_: Asked(plan, {"code": "poison"}, "away"))
    plans = ablate._evidence_plans(ablation, "launch", BOARD)
    Workers(ablation, list(plans.of_cases.values()), {}).install(monkeypatch)
    failed = ablate._fuse(ablation.base, plans, "launch", BOARD)
    runs = {name: plan.run_id for name, plan in plans.of_cases.items()}
    assert failed == {runs["code"]: "poison", runs["prose+code"]: "poison"}
    left = plans.missing(failed=failed).values()
    assert [one.title for one in left] == ["prose, seed 0", "CLM, seed 0"]
    assert plans.unmeasured == "away"
    monkeypatch.setattr(ablate, "jobs_of", lambda *_: SimpleNamespace(carry_out=lambda *_: None, failed={}))
    table = table_of(ablation, plans, failed, ablate._train(ablation, plans, [], 1, BOARD))
    assert {name: reason for name, reason in table.failures().items() if reason != "not measured"} == {
        **{"code": "poison", "prose+code": "poison"},
        **{"source code": "away", "source prose": "away"},
    }


def test_what_a_process_can_measure_is_not_asked_of_a_server() -> None:
    assert [comparisons.is_asked(name) for name in ("source code", "ensemble", "weight merging", "target before")] == [
        *(True, False, False, False)
    ]


def test_only_what_is_done_may_be_cleared_of_the_store(folder: Path) -> None:
    ablation = open_of(folder, axes={"capture.top_k": [4, 32], "fusion.rule": ["avg_ce"], "sources": [["code"]]})
    (group,), plans = ablation.groups, plans_of(ablation, asked(ablation))
    small, large = (plan.run_id for plan in plans.of_cases.values())
    assert len({small, large, group.run.run_id, ablation.base.run_id}) == 4
    assert finished_runs(ablation, plans) == set()
    first, second = plans.trainings
    measured(ablation, plans, first, clm_only=False)
    assert finished_runs(ablation, plans) == set()
    measured(ablation, plans, first, clm_only=True)
    assert finished_runs(ablation, plans) == {small}
    measured(ablation, plans, second, clm_only=False)
    assert finished_runs(ablation, plans) == {small, large, group.run.run_id}
    evidence.complete(ablation.base, [small])
    assert ablation.base.store.read_note(f"runs/{small}/complete.json") is not None


def test_a_model_to_keep_is_trained_again_where_there_is_none(folder: Path) -> None:
    ablation = open_of(folder, axes=RULES, keep_models=True)
    plans = plans_of(ablation, asked(ablation))
    for name, clm_only in (("min_ce", False), ("avg_ce", False), ("min_ce", True)):
        measured(ablation, plans, name, clm_only)
    (kept, _), *_ = plans.trainings["avg_ce"]
    (kept.folder / "model").mkdir(parents=True)
    missing = plans.missing()
    assert [one.title for one in missing.values()] == ["min_ce, seed 0", "CLM, seed 0"]
    assert Plans(plans.base, False, plans.of_cases, plans.trainings).missing() == {}
    table = table_of(ablation, plans, {}, dict.fromkeys(missing, "no space"))
    assert table.failures()["model of min_ce, seed 0"] == "no space"
    assert all(row.fused is not None for row in table.rows)


def test_what_is_fused_and_whole_needs_no_workers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ablation = open_of(folder, axes=RULES)
    plans = plans_of(ablation, asked(ablation))

    def never(*_: object) -> None:
        raise AssertionError("workers were started")

    monkeypatch.setattr(evidence, "_workers", never)
    (first, second) = plans.of_cases.values()
    assert opened.not_fused(ablation.base, plans.missing().values()) == [first, second]
    reasons = evidence.fuse(ablation.base, [first, second], {first.run_id: "poison"}, "launch", BOARD)
    assert reasons[first.run_id] == "poison"
    assert reasons[second.run_id].startswith("captures are missing; run the same command again")
    assert evidence.fuse(ablation.base, [], {}, "launch", BOARD) == {}


def test_the_yaml_may_not_change_while_the_ablation_starts(folder: Path) -> None:
    ablation = open_of(folder, axes=RULES)
    text = ablation.base.file.path.read_text()
    try:
        ablation.base.file.path.write_text(text.replace("name: pico", "name: nano"))
        with pytest.raises(ConfigError, match="changed while it was being started"):
            ablate._carry_out(ablation, 1, BOARD)
    finally:
        ablation.base.file.path.write_text(text)
