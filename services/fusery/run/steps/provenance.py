"""What a run's fused model comes from, as short texts by name: for tags, the card and the report."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fusery import __version__
from fusery.config.run import EngineKind, ModelSpec, SourceSpec, split_engine
from fusery.hops.names import digest
from fusery.hops.plan import Plan
from fusery.models.model_files import weight_files
from fusery.registry.licences import TARGET, RunLicences, run_licences
from fusery.registry.model_card import Lineage
from fusery.registry.record import ModelLicence, Origin
from fusery.registry.redaction import without_secrets
from fusery.run.open_run import Run
from fusery.run.steps import steps

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "mlflow")
_GIT_S = 10


def lineage(run: Run, plan: Plan, licences: RunLicences) -> dict[str, str]:
    """Models with revisions, fingerprints, licences; digests of corpora and manifest; rules, versions, git commit."""
    return _of_training(run, plan, licences) | _of_fusion(run, plan)


def _of_training(run: Run, plan: Plan, licences: RunLicences) -> dict[str, str]:
    """What the baseline comes from, too."""
    commit = git_commit(run.file.folder)
    accepted = ", ".join(f"{id} ({when})" for id, when in licences.accepted.items())
    return {
        "target": _model(run, run.config.target),
        **_target_weights(run),
        "target_tokenizer": plan.target_tokenizer_fingerprint,
        **{f"licence.{model.role}": f"{model.id} ({model.found_in})" for model in licences.models},
        "licence": " ".join(part for part in licences.of_result if part),
        **({"licences_accepted": accepted} if accepted else {}),
        "corpus": plan.corpus_digest,
        "held_out": run.corpora.held_out.digest,
        "config": run.config.digest(),
        "versions": versions(),
        **({} if commit is None else {"git_commit": commit}),
    }


def _of_fusion(run: Run, plan: Plan) -> dict[str, str]:
    return {
        **_sources(run, plan),
        **_rules(plan),
        "clm_weight": f"{run.config.training.clm_weight:g}",
        "manifest": digest(steps.manifest(run, plan)),
    }


def of_training(run: Run, plan: Plan, clm_only: bool) -> Lineage:
    """For the card of the model that `plan` trains: with the sources that it learns from, and none for the baseline."""
    known = run_licences(run)
    roles = {TARGET} if clm_only else {TARGET, *(source.name for source in plan.sources)}
    models = tuple(model for model in known.models if model.role in roles)
    asked = tuple(condition for condition in known.conditions if condition.model.role in roles)
    licences = replace(known, models=models, conditions=asked)
    values = _of_training(run, plan, licences) | ({} if clm_only else _of_fusion(run, plan))
    return Lineage(origin(run, licences), values)


def _model(run: Run, spec: ModelSpec) -> str:
    """With the revision of a model on the Hub; a folder has none, its fingerprint tells."""
    if spec.revision is None and _is_here(run, spec):
        # Paths of this machine are not published.
        return Path(spec.model).name if Path(spec.model).is_absolute() else spec.model
    return f"{without_secrets(spec.model)}@{spec.revision or 'unpinned'}"


def _target_weights(run: Run) -> dict[str, str]:
    """A digest of the target's weights, where they lie on this machine; sources have their fingerprints."""
    folder = Path(run.file.resolve(run.config.target.model))
    if not folder.is_dir():
        return {}
    return {"target_weights": digest([[path.name, run.digests.digest(path).hex()] for path in weight_files(folder)])}


def _sources(run: Run, plan: Plan) -> dict[str, str]:
    values, specs = {}, {spec.name: spec for spec in run.config.sources}
    for planned in plan.sources:
        spec = specs[planned.name]
        values[f"source.{planned.name}"] = f"{_model(run, spec)} {planned.model_fingerprint}"
        values[f"source_tokenizer.{planned.name}"] = planned.tokenizer_fingerprint
    return values


def _rules(plan: Plan) -> dict[str, str]:
    """The rules of alignment and fusion, each as one text, and k."""
    sections = {"alignment": plan.alignment, "fusion": plan.fusion}
    texts = {
        name: ", ".join(f"{key} {value}" for key, value in section.model_dump(mode="json").items())
        for name, section in sections.items()
    }
    return {**texts, "top_k": str(plan.capture.top_k)}


def versions() -> str:
    """'fusery 0.1.0, python 3.11.7, torch 2.13.0, …': what is installed here."""
    found = [("fusery", __version__), ("python", platform.python_version())]
    for name in _PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return ", ".join(f"{name} {number}" for name, number in found)


def git_commit(folder: Path) -> str | None:
    """The commit that `folder` is at, and whether files were changed since; None where there is no git."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit} with changes" if changed else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=_GIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def origin(run: Run, licences: RunLicences) -> Origin:
    """For the card: the models and datasets that a run's model comes from, and what their licences ask."""
    roles = {model.role for model in licences.models}
    datasets = dict.fromkeys(file.dataset[0] for file in run.config.corpus.train if file.dataset is not None)
    licence, name = licences.of_result
    asked = {condition.model.role: condition for condition in licences.conditions}
    rows = tuple(
        ModelLicence(
            role=model.shown,
            model=model.model,
            licence=model.id,
            found_in=model.found_in,
            asks=asked[model.role].says if model.role in asked else "",
            accepted=licences.accepted_of(model),
        )
        for model in licences.models
    )
    public = tuple(dataset for dataset in datasets if not dataset.startswith((".", "/", "~")))
    return Origin(_base_models(run, roles), public, licence, name, rows)


def _base_models(run: Run, roles: set[str]) -> tuple[str, ...]:
    """The target, then the sources among `roles`: each model once, by a name of its own."""
    sources = {source.name: source for source in run.config.sources if source.name in roles}
    found = {role: _base_model(run, spec) for role, spec in ({TARGET: run.config.target} | sources).items()}
    hub_ids = {name for place, name in found.values() if place == name}
    names: dict[str, str] = {}
    for role, (place, name) in found.items():
        # A Hub id stays as it is; folders of one name differ by their roles.
        while place not in names and place != name and name in {*names.values(), *hub_ids}:
            name = f"{name}-{role}"
        names.setdefault(place, name)
    return tuple(names.values())


def _base_model(run: Run, spec: ModelSpec) -> tuple[str, str]:
    """What tells the model from others, and its name: a Hub id, or that of its folder, which says nothing of a machine.

    What a server computes goes by its tokenizer's, else by the source's name: its address is not published.
    """
    kind, place = split_engine(spec.model)
    if kind is not EngineKind.TRANSFORMERS and isinstance(spec, SourceSpec):
        if spec.tokenizer is None:
            return spec.model, spec.name
        place = spec.tokenizer
    folder = Path(run.file.resolve(place))
    is_folder = folder.is_dir() or place.startswith((".", "/", "~"))
    return (str(folder), folder.name) if is_folder else (place, place)


def _is_here(run: Run, spec: ModelSpec) -> bool:
    return Path(run.file.resolve(spec.model)).is_dir()
