"""The trainings of a run: the fused one, its baselines, and each as the file that a process trains from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusery.config.run import RunConfig
from fusery.config.sections import TrainingSpec
from fusery.hops.plan import Hop, Plan
from fusery.registry.follow import Followed
from fusery.registry.tracking import artifact_folder
from fusery.run.open_run import Run, open_run
from fusery.run.steps import baselines, steps
from fusery.run.steps.provenance import of_training
from fusery.run.steps.steps import CLM, FUSED, datasets_of, load_plan, settings_of
from fusery.run.steps.training_file import HeldOutText, Measure, TrainingFile, carry_out, target_state
from fusery.runtime.errors import ConfigError

_NOT_OF_CLM = ("clm_weight", "tail", "temperature")


@dataclass(frozen=True, slots=True)
class Training:
    """One training of `run`. `plan` names the fused text that is read; of CLM only its tokens count.

    `options`: what tells it from others as the command `fusery train` is given it.
    """

    run: Run
    title: str
    plan: Plan
    spec: TrainingSpec
    seed: int
    clm_only: bool
    key: str
    folder: Path
    options: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        return (self.folder / "result.json").exists()

    @property
    def scores(self) -> str:
        """The artefact with the scores of its model on the held-out text."""
        return steps.scores_name(self.run, CLM if self.clm_only else FUSED, self.key)

    @property
    def is_measured(self) -> bool:
        return self.run.store.find(self.scores) is not None

    def file(self, keeps_model: bool | None = None) -> TrainingFile:
        """What a process needs to train it; `keeps_model` given: also to measure it, with no word to MLflow.

        Fuses the shards of a source alone, which no hop makes.
        """
        run, config = self.run, self.run.config
        if self.options[:1] == ("--only-source",):
            baselines.make_missing(run, self.plan)
        target = run.file.model(config.target.model)
        is_own = keeps_model is None
        return TrainingFile(
            title=self.title,
            key=self.key,
            store=run.store.url,
            target=target,
            revision=config.target.revision,
            target_state=target_state(target),
            output=self.folder,
            plan=self.plan,
            training=self.spec,
            seed=self.seed,
            clm_only=self.clm_only,
            held_out=HeldOutText(digest=run.corpora.held_out.digest, shards=run.corpora.held_out.shards),
            tracking=_tracking(self) if is_own and config.registry.enabled else None,
            lineage=of_training(run, self.plan, self.clm_only) if is_own else None,
            measure=None
            if keeps_model is None
            else Measure(scores=self.scores, batch_bytes=config.evaluation.batch_bytes, keeps_model=keeps_model),
        )

    def write(self, path: Path, keeps_model: bool | None = None) -> dict[str, str]:
        """Writes the file; what the environment of the process that reads it must have besides."""
        self.file(keeps_model).write(path)
        return {"FUSERY_STORE": self.run.store.url, "FUSERY_TRACKING_URI": self.run.tracking_uri}


def trainings_of(run: Run, plan: Plan) -> list[Training]:
    """All that the run asks for: fused, CLM, and of each source alone."""
    found = [own_training(run, plan, clm_only=False)]
    if run.config.evaluation.clm_baseline:
        found.append(own_training(run, plan, clm_only=True))
    return found + [of_source_alone(run, plan, source) for source in steps.single_sources(run, plan)]


def own_training(run: Run, plan: Plan, clm_only: bool) -> Training:
    title, options = ("train clm", ("--clm-only",)) if clm_only else ("train fused", ())
    return _own(run, plan, title, clm_only, options)


def of_source_alone(run: Run, plan: Plan, source: str) -> Training:
    """The fused training on one source's evidence.

    Raises:
        ConfigError: the run has no such source.
    """
    names = [known.name for known in plan.sources]
    if source not in names:
        raise ConfigError(f"no source {source!r} in {run.file.path}; it has {', '.join(names)}")
    return _own(run, plan.of_source_alone(source), f"train only {source}", False, ("--only-source", source))


def _own(run: Run, plan: Plan, title: str, clm_only: bool, options: tuple[str, ...]) -> Training:
    key, folder = steps.training_digest(run, plan, clm_only), steps.training_folder(run, plan, clm_only)
    return Training(run, title, plan, run.config.training, run.config.seed, clm_only, key, folder, options)


def case_training(base: Run, name: str, config: RunConfig, plan: Plan, seed: int, clm_only: bool) -> Training:
    """The fused training of an ablation's case with one seed, or its CLM baseline, which cases share.

    CLM sees no evidence: one baseline serves all cases that differ in evidence, λ or tail.
    """
    spec = config.training.model_copy(update={"clm_learning_rate": None, "evaluate_every_steps": None})
    reads = plan.folder(Hop.FUSE)
    if clm_only:
        usual: dict[str, Any] = {name: TrainingSpec.model_fields[name].default for name in _NOT_OF_CLM}
        rate = config.training.clm_learning_rate
        spec = spec.model_copy(update=usual | ({} if rate is None else {"learning_rate": rate}))
        reads = plan.corpus_digest
    key = steps.training_key(base.run_id, reads, spec, seed, clm_only)
    folder = base.work / "ablations" / "trainings" / key[:16]
    return Training(base, f"{'CLM' if clm_only else name}, seed {seed}", plan, spec, seed, clm_only, key, folder)


def asked_training(path: Path, asked: Mapping[str, Any]) -> Training:
    """The training that `fusery train FILE.yaml` means with its options, on shards that are there.

    Raises:
        ConfigError: the run has no plan yet, or no such source.
    """
    run = open_run(path, folder=asked.get("relative_to"))
    plan = load_plan(run)
    if asked.get("only_source") is None:
        return own_training(run, plan, bool(asked.get("clm_only")))
    return of_source_alone(run, plan, asked["only_source"])


def train_step(path: Path, threads: int | None, **asked: Any) -> dict[str, Any]:
    """Trains what `asked_training` finds, in this process; the result as JSON values."""
    return carry_out(asked_training(path, asked).file(), threads)


def _tracking(training: Training) -> Followed:
    """The training's run in MLflow, beside which the finished model's run will stand."""
    run, name = training.run, CLM if training.clm_only else FUSED
    artifacts = artifact_folder(run.tracking_uri, run.work)
    return Followed(
        tracking_uri=run.tracking_uri,
        experiment=run.config.name,
        run_name=f"{run.run_id} {name}",
        training_id=f"{run.run_id}/{name}-{training.key}",
        artifact_folder=None if artifacts is None else str(artifacts),
        params={key: str(value) for key, value in (settings_of(run) | {"seed": run.config.seed}).items()},
        datasets=datasets_of(run, training.plan),
    )
