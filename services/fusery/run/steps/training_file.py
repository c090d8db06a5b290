"""A training as a file: what a run writes for the process that trains, and what that process does with it.

The run knows its texts, models and plan when it writes the file. The process that trains opens no run: it reads no YAML
and looks at no corpus and no source. The price: files of the target may change in between, so their times are compared.

    fusery train STORE/runs/tiny-1a2b3c4d5e/jobs/fused-6f708192.json
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fusery.config.sections import TrainingSpec
from fusery.core.topk import IntArray
from fusery.evaluation.bits_per_byte import HeldOutDocument, measure
from fusery.evaluation.scores import Scores
from fusery.evaluation.windows import Reading
from fusery.hops.names import corpus_shard, digest
from fusery.hops.plan import Hop, Plan, ShardTask
from fusery.hops.store.shards import read_corpus
from fusery.hops.store.store import Store
from fusery.hops.tables import load_tokenizer, load_vocabulary_map
from fusery.models.model_files import model_files
from fusery.registry.follow import Followed
from fusery.registry.model_card import Lineage
from fusery.run.corpus.files import state_of
from fusery.runtime.errors import ConfigError, Mismatch
from fusery.runtime.settings import settings
from fusery.runtime.text.secrets import HIDDEN, without_secrets
from fusery.source.api import ModelDescription
from fusery.trainer.documents import Stored


class HeldOutText(BaseModel):
    """The held-out documents of a run, which lie in the store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    shards: int

    def read(self, store: Store) -> list[HeldOutDocument]:
        shards = (read_corpus(store.read(corpus_shard(self.digest, shard))) for shard in range(self.shards))
        return [HeldOutDocument(d.doc_id, d.domain, d.text) for documents in shards for d in documents]


class Measure(BaseModel):
    """What becomes of a trained model of which only its scores stay: the artefact with them, and whether it stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scores: str
    batch_bytes: int
    keeps_model: bool


class TrainingFile(BaseModel):
    """One training. `key` is what decides its result; `plan` names the fused text that is read.

    `target_state`: of the target's files, where they lie in a folder. `store` and the URI of MLflow stand here without
    passwords; the environment has them with (FUSERY_STORE, FUSERY_TRACKING_URI).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    title: str
    key: str
    store: str
    target: str
    revision: str | None
    target_state: str | None
    output: Path
    plan: Plan
    training: TrainingSpec
    seed: int
    clm_only: bool
    held_out: HeldOutText
    tracking: Followed | None = None
    lineage: Lineage | None = None
    measure: Measure | None = None

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all, and without passwords."""
        tracking = self.tracking
        if tracking is not None:
            tracking = replace(tracking, tracking_uri=without_secrets(tracking.tracking_uri))
        shown = self.model_copy(update={"store": without_secrets(self.store), "tracking": tracking})
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".tmp")
        draft.write_text(shown.model_dump_json(indent=1), encoding="utf-8")
        draft.replace(path)


def read_training(path: Path) -> TrainingFile:
    """The training that `path` describes, with store and MLflow as the environment names them, if it does.

    Raises:
        ConfigError: it can't be read, or describes no training as this version writes them; or a password is missing.
    """
    try:
        found = TrainingFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{error.error_count()} mistakes"
        raise ConfigError(
            f"{path}: no training of this version of fusery ({reason}); its run writes it anew: fusery train FILE.yaml"
        ) from error
    place = settings()
    uris = {"FUSERY_STORE": place.store or found.store}
    tracking = found.tracking
    if tracking is not None:
        uris["FUSERY_TRACKING_URI"] = place.tracking_uri or tracking.tracking_uri
        tracking = replace(tracking, tracking_uri=uris["FUSERY_TRACKING_URI"])
    for name, uri in uris.items():
        if HIDDEN in uri:
            raise ConfigError(f"{path}: {uri} has a password, which no file has; set {name}")
    return found.model_copy(update={"store": uris["FUSERY_STORE"], "tracking": tracking})


def carry_out(job: TrainingFile, threads: int | None) -> dict[str, Any]:
    """Trains, and measures the model where that is asked for; the result as JSON values.

    Raises:
        Mismatch: files of the target have changed since the file was written.
    """
    # Imports torch: not before a wrong file name is found out.
    from fusery.trainer.job import TrainJob, train

    if job.target_state != target_state(job.target):
        raise Mismatch(
            f"{job.target}: its files have changed since {job.title} was planned, which would train another model; "
            "run the same command again"
        )
    store, plan = Store(job.store), job.plan
    if job.measure is not None:
        _clear(job)
    result = train(
        TrainJob(
            target=job.target,
            revision=job.revision,
            output=job.output,
            documents=fused_documents(store, plan),
            partitions=[load_vocabulary_map(store, plan, source).cell_of_target_V for source in plan.sources],
            training=job.training,
            config_digest=job.key,
            seed=job.seed,
            clm_only=job.clm_only,
            threads=threads,
            held_out=_held_out_tokens(store, job) if job.training.evaluate_every_steps else (),
            tracking=job.tracking,
            lineage=job.lineage,
        )
    )
    if job.measure is not None:
        _measured(store, job, job.measure)
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(result).items()}


def _clear(job: TrainingFile) -> None:
    """Removes what can't be gone on with: a finished training without its model, or one begun on other shards.

    An ablation's CLM has the same key whatever evidence stands beside the tokens; a checkpoint belongs to its shards.
    """
    note, reads = job.output / "reads.txt", job.plan.folder(Hop.FUSE)
    is_finished, has_model = (job.output / "result.json").exists(), (job.output / "model").is_dir()
    of_others = note.exists() and note.read_text(encoding="utf-8") != reads
    if (is_finished and not has_model) or (of_others and not is_finished):
        shutil.rmtree(job.output)
    job.output.mkdir(parents=True, exist_ok=True)
    note.write_text(reads, encoding="utf-8")


def _measured(store: Store, job: TrainingFile, wanted: Measure) -> None:
    """Leaves the scores, and of the files only what is to be kept."""
    if store.find(wanted.scores) is None:
        documents = job.held_out.read(store)
        measure_model(store, documents, wanted.batch_bytes, (str(job.output / "model"), None), wanted.scores)
    shutil.rmtree(job.output / "checkpoints", ignore_errors=True)
    if not wanted.keeps_model:
        shutil.rmtree(job.output / "model")


def target_state(target: str) -> str | None:
    """What changes with the target's files; None for a model of the Hub, whose revision tells."""
    folder = Path(target)
    return state_of(model_files(folder)) if folder.is_dir() else None


def fused_documents(store: Store, plan: Plan) -> Stored:
    """All training documents with their evidence, in corpus order, read from the store shard by shard."""
    names = [plan.artefact(ShardTask(Hop.FUSE, "", shard)) for shard in range(plan.corpus_shards)]
    header = {
        "target": plan.target_tokenizer_fingerprint,
        "sources": [source.name for source in plan.sources],
        "vocabulary_maps": [plan.vocabulary_map(source.name) for source in plan.sources],
    }
    return Stored(store, names, header)


def _held_out_tokens(store: Store, job: TrainingFile) -> list[IntArray]:
    """Some of the held-out documents in the target's tokens, the same ones at every start."""
    chosen = sorted(job.held_out.read(store), key=lambda document: digest(document.doc_id))
    tokenizer = load_tokenizer(store, job.plan.target_tokenizer_fingerprint)
    chosen = chosen[: job.training.evaluate_documents]
    texts, names = [document.text for document in chosen], [document.doc_id for document in chosen]
    return [tokenized.ids_T for tokenized in tokenizer.tokenize_batch(texts, names)]


def measure_model(
    store: Store, documents: Sequence[HeldOutDocument], batch_bytes: int, model: tuple[str, str | None], name: str
) -> None:
    """Keeps the scores of a checkpoint (folder or Hub id, and revision) on the held-out documents under `name`."""
    from fusery.source.engines.transformers import load_engine

    engine = load_engine(*model)
    reading = Reading(engine.tokenizer, window_tokens(engine.model))
    keep_scores(store, name, measure(engine, documents, batch_bytes, reading=reading))


def window_tokens(model: ModelDescription) -> int:
    """A document in one window, where the context holds it; a server takes no larger requests than its limits say."""
    return min(model.context_length, model.limits.max_tokens)


def keep_scores(store: Store, name: str, scores: Scores) -> None:
    store.publish(name, json.dumps(scores.to_json(), sort_keys=True).encode())
