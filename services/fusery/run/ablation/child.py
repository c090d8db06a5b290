"""The process that trains and measures: one for many jobs, since importing torch takes longer than a tiny training.

    python -m fusery.run.ablation.child RUN.yaml FOLDER THREADS < lines, each the path of a job

A job is a training's file, or says what of the base run is measured beside the cases. Beside each the process leaves an
outcome. A job that fails is no end; a process that is killed is started again, for the jobs that are left.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

from fusery.hops.store.store import Store
from fusery.run.steps.training_file import carry_out, read_training
from fusery.runtime.errors import Corrupt, FuseryError, Interrupted, Mismatch
from fusery.runtime.settings import settings
from fusery.runtime.telemetry import set_up_logging
from fusery.runtime.text.json import read_json_object

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
    for line in sys.stdin:
        path = Path(line.rstrip("\n"))
        try:
            content = read_json_object(path)
            if "measure_beside" in content:
                _measure_beside(given.file, given.folder, content)
            else:
                carry_out(read_training(path), given.threads)
            _end(path, None)
        except Interrupted as error:
            log.warning("%s", error)
            return error.exit_code
        except FuseryError as error:
            if isinstance(error, Corrupt) and error.artefact is not None and place.store is not None:
                Store(place.store).discard(error.artefact)
            _end(path, str(error))
        except Exception as error:  # a defect, or a library's: this job's alone
            log.exception("%s", path)
            _end(path, f"{type(error).__name__}: {error}")
    return 0


def _end(job: Path, failure: str | None) -> None:
    draft = job.with_suffix(".tmp")
    draft.write_text(json.dumps({"failure": failure}), encoding="utf-8")
    draft.replace(outcome_of(job))


def _measure_beside(file: Path, folder: Path, job: dict[str, Any]) -> None:
    """Opens the base run: an ensemble and a mean of weights are made of all of its sources."""
    from fusery.hops.plan import Plan
    from fusery.run.ablation import comparisons
    from fusery.run.ablation.file import Comparison
    from fusery.run.open_run import open_run

    run = open_run(file, folder=folder)
    if job["run_id"] != run.run_id:
        # Scores stand under the run's id: those of another run would never be found.
        raise Mismatch(
            f"this is run {run.run_id}, the ablation was started with {job['run_id']}: models, texts or settings were "
            "changed since; run the same command again"
        )
    compare = [Comparison(name) for name in job["compare"]]
    comparisons.measure(comparisons.comparing(run, compare), Plan.model_validate(job["plan"]), job["measure_beside"])


if __name__ == "__main__":
    sys.exit(main())
