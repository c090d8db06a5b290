"""`fusery register` and `fusery promote`: a run's fused model in MLflow, with what proves and explains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fusery.config.file import MOUNTED
from fusery.evaluation.report import report as reports
from fusery.evaluation.report.tables import to_markdown, verdict_lines
from fusery.hops.plan import Plan
from fusery.registry.follow import run_of
from fusery.registry.licences import accept_licences, check_licences, run_licences
from fusery.registry.promote import CHAMPION, Promoted, Promotion, promote, version_of_run
from fusery.registry.record import FusionRecord
from fusery.registry.register import register
from fusery.registry.tracking import artifact_folder
from fusery.run.open_run import Run, open_run
from fusery.run.steps import steps
from fusery.run.steps.provenance import lineage, origin
from fusery.run.steps.report import metrics_of, write_report
from fusery.runtime.errors import ConfigError, GateFailed
from fusery.runtime.settings import settings
from fusery.runtime.text.secrets import HIDDEN, without_secrets


def accept_step(path: Path, accepted: Sequence[str], folder: Path | None = None) -> None:
    """Notes with the run of `path` that its user accepts these licences; paths in it are relative to `folder`.

    Raises:
        ConfigError: one of them is no licence or model of the run.
    """
    if accepted:
        accept_licences(open_run(path, folder=folder), accepted)


def register_step(path: Path, folder: Path | None = None) -> dict[str, Any]:
    """The registered model version, as JSON values; the report is written first.

    Raises:
        ConfigError: the run is not evaluated yet, or a licence forbids it and was not accepted.
        Unavailable: MLflow is gone; the message says how to register later.
    """
    run = open_run(path, folder=folder)
    plan = steps.load_plan(run)
    check_licences(run)
    report_folder = write_report(run, plan)
    (run.work / "mlflow").mkdir(parents=True, exist_ok=True)
    done = register(_record(run, plan, report_folder), run.tracking_uri, artifact_folder(run.tracking_uri, run.work))
    registered = asdict(done) | {"tracking_uri": shown_uri(run.tracking_uri)}
    run.store.write_note(f"{run.name}/registered.json", registered)
    return registered


def _record(run: Run, plan: Plan, report_folder: Path) -> FusionRecord:
    report = reports.read(steps.evaluation_path(run))
    licences = run_licences(run)
    is_here = run.file.relative_to is not None and run.file.path.parent != MOUNTED
    place = ["--relative-to", str(run.file.relative_to)] if is_here else []
    return FusionRecord(
        experiment=run.config.name,
        run_name=run.run_id,
        run_id=run.run_id,
        model_name=run.config.registered_name,
        alias=run.config.registry.alias,
        model_folder=steps.training_folder(run, plan, clm_only=False) / "model",
        config_file=run.file.path,
        evaluation=report.to_json(),
        report_markdown=to_markdown(report),
        metrics_files=metrics_of(run, plan),
        params=steps.settings_of(run) | {"seed": run.config.seed},
        lineage=lineage(run, plan, licences),
        origin=origin(run, licences),
        register_command=run.file.command("register", *place),
        report_folder=report_folder,
        training_runs={
            name: run_id
            for name, clm_only in ((steps.FUSED, False), (steps.CLM, True))
            if (run_id := run_of(steps.training_folder(run, plan, clm_only))) is not None
        },
        datasets=steps.datasets_of(run, plan),
    )


def check_gate(run: Run) -> None:
    """Returns if the gate passed the run's fused model.

    Raises:
        GateFailed: it did not; the message has its reasons. Everything is kept.
    """
    report = reports.read(steps.evaluation_path(run))
    if report.verdict is None or not report.verdict.passed:
        _, *reasons = verdict_lines(report) or ["", "the run was evaluated before there was a gate; evaluate again"]
        lost = [line for line in reasons if not line.startswith("held")]
        raise GateFailed("the gate failed; everything is kept, and no alias was given: " + "; ".join(lost))


def gate_of(path: Path) -> None:
    """As `check_gate`, of the run of `path`."""
    check_gate(open_run(path))


def promote_step(given: str, version: str | None, force: str | None) -> Promoted:
    """The champion of the model that `given` names: a run's YAML, or a registered model's name.

    Raises:
        ConfigError: it is a name, and nothing says where MLflow is.
        InvalidInput: there is no such version, or the gate did not pass it and no reason is given.
    """
    if not (given.endswith((".yaml", ".yml")) or Path(given).is_file()):
        uri = settings().tracking_uri
        if uri is None:
            raise ConfigError(
                f"{given}: a model's name, and nothing says where MLflow is; set FUSERY_TRACKING_URI, or give a run's "
                "YAML"
            )
        return promote(Promotion(given, version, force=force), uri)
    run = open_run(Path(given))
    name = run.config.registered_name
    number = version or version_of_run(name, run.run_id, run.tracking_uri)
    return promote(Promotion(name, number, run.config.registry.alias, force), run.tracking_uri)


def promoted_lines(done: Promoted) -> list[str]:
    """What a person wants to know of a promotion, and how to take it back."""
    lines = [f"models:/{done.model_name}@{CHAMPION} is version {done.version} (gate {done.verdict})"]
    if done.before is not None:
        lines.append(
            f"before it was version {done.before}; back: fusery promote {done.model_name} --version {done.before}"
        )
    return lines


def shown_uri(uri: str) -> str:
    """`uri` without user and password."""
    return without_secrets(uri).replace(f"{HIDDEN}@", "")
