"""Trainings that are killed again and again, and what comes out: the bytes of a training that nobody disturbed.

    python bench/kills.py [--kills 50] [--seed 0] [--only NUMBER] [--record]

Real processes and real signals. A trainer takes ten seconds to import and less to train a pico model; so this process
imports, computes nothing, and forks every trainer. Each training is carried out once undisturbed, then killed, resumed,
killed again, and at last left alone. Then must be equal: the weights' digest, every number of every step (but times),
and, where MLflow followed, each step in MLflow exactly once, in one run. Kinds of kills:

  step       SIGKILL some time after a step
  start      SIGKILL at one of the first file operations in the output folder, resuming included
  write      SIGKILL at one of the file operations of a checkpoint: draft, digests, rename, removal of old ones
  term       SIGTERM; the step is finished, its checkpoint written, exit code 143
  term-kill  SIGTERM, and SIGKILL some milliseconds later
  import     SIGKILL of a trainer whose follower has not reached MLflow yet: two followers meet
  follow     SIGKILL of a trainer whose metrics are being sent
  follower   SIGKILL of the process that sends them, then of the trainer

What is drawn comes from (seed, training, life): --only repeats one training. Where a kill fell is in the result.
"""

from __future__ import annotations

import argparse
import json
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from killed_lives import TRAININGS, Life, Training, forked, live, lives_of, prepare, waited
from result_file import write_result

from fusery.trainer.job import TERMINATED_EXIT_CODE

TIMES = ("elapsed_s", "tokens_per_s", "time_s", "peak_memory_mb")


def faults_of(training: Training, folder: Path, lives: list[Life]) -> list[str]:
    """What is not as it must be."""
    said = {name: json.loads((folder / name / "result.json").read_text()) for name in ("undisturbed", "disturbed")}
    one, other = said["undisturbed"], said["disturbed"]
    faults = [f"{key} differs: {said}" for key in other if key != "elapsed_s" and one[key] != other[key]]
    lines = {name: metrics_of(folder / name) for name in said}
    if lines["undisturbed"] != lines["disturbed"]:
        faults.append("metrics differ")
    if [line["step"] for line in lines["disturbed"]] != list(range(1, one["steps"] + 1)):
        faults.append("steps are missing from the metrics, or there twice")
    for life in lives:
        # A SIGTERM after the last step finds the usual answer to it again.
        if life.code not in (0, -signal.SIGKILL, -signal.SIGTERM, TERMINATED_EXIT_CODE):
            faults.append(f"{life}: exit code {life.code}")
        if life.code == TERMINATED_EXIT_CODE and life.steps != life.checkpoint:
            faults.append(f"{life}: SIGTERM left another checkpoint than that of the last step")
    left = [path.name for path in (folder / "disturbed").rglob("*.tmp")]
    return faults + [f"left behind: {left}"] * bool(left) + (tracking_faults(folder) if training.is_followed else [])


def metrics_of(output: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key not in TIMES} for line in lines]


def tracking_faults(folder: Path) -> list[str]:
    """What MLflow's database says against one run with each step once."""
    steps = len(metrics_of(folder / "disturbed"))
    database = sqlite3.connect(folder / "mlflow.db")
    try:
        runs = [tuple(row) for row in database.execute("SELECT name, status FROM runs")]
        query = "SELECT key, COUNT(*), COUNT(DISTINCT step) FROM metrics WHERE key IN (?, ?) GROUP BY key"
        counts = database.execute(query, ("train/loss", "train/learning_rate")).fetchall()
    finally:
        database.close()
    faults = (
        [] if [status for _, status in runs] == ["FINISHED"] else [f"MLflow's runs: {runs}, expected one, finished"]
    )
    wrong = [row for row in counts if row[1:] != (steps, steps)]
    return faults + ([f"MLflow has {counts}, expected {steps} of each"] if wrong or len(counts) != 2 else [])


def play(training: Training, kills: int, seed: int) -> tuple[list[Life], list[str]]:
    """The lives of a disturbed training, and what is wrong at its end."""
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        for work in (lambda: prepare(training, folder), lambda: live(training, folder, folder / "undisturbed", None)):
            if waited(forked(work, folder / "log")):
                return [], [(folder / "log").read_text()[-2000:]]
        lives = list(lives_of(training, folder, kills, seed))
        if lives[-1].code:
            return lives, [f"the last life ended with {lives[-1].code}: {(folder / 'log').read_text()[-2000:]}"]
        return lives, faults_of(training, folder, lives)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, choices=range(len(TRAININGS)), help="the number of a training")
    parser.add_argument("--record", action="store_true", help="write bench/results/kills.json")
    given = parser.parse_args()
    chosen = TRAININGS if given.only is None else (TRAININGS[given.only],)
    share = -(-given.kills // len(TRAININGS)) if given.only is None else given.kills
    rows, wrong = [], 0
    for training in chosen:
        lives, faults = play(training, share, given.seed)
        wrong += bool(faults)
        killed = [life for life in lives if life.kill is not None and life.code != 0]
        rows += [{"training": training.number, "target": training.architecture, **asdict(life)} for life in killed]
        for life in killed:
            print(f"  {life.kill}: code {life.code}, {life.steps} steps, checkpoint of {life.checkpoint}", flush=True)
        verdict = "; ".join(faults) if faults else "the same bytes and metrics"
        print(f"training {training.number} ({training.architecture}), {len(killed)} kills: {verdict}", flush=True)
    kinds = Counter(row["kill"]["kind"] for row in rows)
    print(f"seed {given.seed}: {len(rows)} kills ({dict(kinds)}), {wrong} of {len(chosen)} trainings differ")
    if given.record:
        write_result(
            "kills",
            measure="trainings that end with other bytes or metrics after kills than undisturbed",
            value=wrong,
            unit="trainings",
            baseline={"what": "trainings, each killed several times", "value": len(chosen), "unit": "trainings"},
            ratio=None,
            goal="0 of at least 50 kills",
            seed=given.seed,
            kills=len(rows),
            kinds=dict(kinds),
            lives=rows,
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
