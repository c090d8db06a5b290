"""The process that trains and measures: one for many trainings, since importing torch takes longer than a tiny one.

    python -m fusery.ablation.child RUN.yaml FOLDER THREADS < lines, each the path of a job

Beside each job it leaves an outcome. A job that fails is no end; a process that is killed is started again by its
parent, for the jobs that are left.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusery.ablation import comparisons
from fusery.ablation.file import Comparison
from fusery.ablation.trainings import Training
from fusery.errors import Corrupt, FuseryError, Interrupted, Mismatch
from fusery.json_text import read_json_object
from fusery.pipeline import steps
from fusery.pipeline.preflight import Run, open_run
from fusery.settings import settings
from fusery.telemetry import set_up_logging
from fusery.worker.plan import Hop, Plan
from fusery.worker.tables import load_vocabulary_map

log = logging.getLogger(__name__)


def outcome_of(job: Path) -> Path:
    return job.with_suffix(".outcome.json")


def main() -> int:
    """Carries out the jobs of standard input; 0, or the exit code of an interruption."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("threads", type=int)
    given = parser.parse_args()
    place = settings()
    set_up_logging("ablate", place.log_level, place.log_format)
    import torch

    torch.set_num_threads(given.threads)
    run = open_run(given.file, folder=given.folder)
    for line in sys.stdin:
        path = Path(line.rstrip("\n"))
        try:
            _carry_out(run, read_json_object(path), given.threads)
            _end(path, None)
        except Interrupted as error:
            log.warning("%s", error)
            return error.exit_code
        except FuseryError as error:
            if isinstance(error, Corrupt) and error.artefact is not None:
                run.store.discard(error.artefact)
            _end(path, str(error))
        except Exception as error:  # a defect, or a library's: this job's alone
            log.exception("%s", path)
            _end(path, f"{type(error).__name__}: {error}")
    return 0


def _end(job: Path, failure: str | None) -> None:
    draft = job.with_suffix(".tmp")
    draft.write_text(json.dumps({"failure": failure}), encoding="utf-8")
    draft.replace(outcome_of(job))


def _carry_out(run: Run, job: Mapping[str, Any], threads: int) -> None:
    if job["run_id"] != run.run_id:
        # Scores stand under the run's id: those of another run would never be found.
        raise Mismatch(
            f"this is run {run.run_id}, the ablation was started with {job['run_id']}: models, texts or settings were "
            "changed since; run the same command again"
        )
    if "training" in job:
        _train(run, Training.from_json(job["training"]), threads, keep=job["keep_models"])
    else:
        compare = [Comparison(name) for name in job["compare"]]
        comparisons.measure(comparisons.comparing(run, compare), Plan.model_validate(job["plan"]), job["measure"])


def _train(run: Run, training: Training, threads: int, keep: bool) -> None:
    from fusery.trainer.job import TrainJob, train

    folder, plan = training.folder(run), training.plan
    _clear(folder, plan)
    result = train(
        TrainJob(
            target=run.file.model(run.config.target.model),
            revision=run.config.target.revision,
            output=folder,
            documents=steps.fused_documents(run, plan),
            partitions=[load_vocabulary_map(run.store, plan, source).cell_of_target_V for source in plan.sources],
            training=training.spec,
            config_digest=training.key,
            seed=training.seed,
            clm_only=training.clm_only,
            threads=threads,
        )
    )
    if not training.is_measured(run):
        steps.measure_model(run, str(result.model), None, training.scores(run))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    if not keep:
        shutil.rmtree(result.model)


def _clear(folder: Path, plan: Plan) -> None:
    """Takes away what can't be gone on with: a finished training without its model, or of other shards.

    CLM has the same key whatever evidence stands beside the tokens, and a checkpoint belongs to the shards it read.
    """
    note, reads = folder / "reads.txt", plan.folder(Hop.FUSE)
    is_finished, has_model = (folder / "result.json").exists(), (folder / "model").is_dir()
    of_others = note.exists() and note.read_text(encoding="utf-8") != reads
    if (is_finished and not has_model) or (of_others and not is_finished):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(reads, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
