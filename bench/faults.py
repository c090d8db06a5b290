"""The fault suite: real processes are killed, stopped and lied to, and every run must leave the same bytes.

    python bench/faults.py                                   # all faults, 20 seeds each
    python bench/faults.py --fault child-killed --first-seed 7 --seeds 1     # replay one run
    python bench/faults.py --list
    python bench/faults.py --played runs.jsonl --record     # hours; stop it and start it again as often as you like

A run that fails is printed with its replay line, its folder is kept, and the suite goes on; the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "tests")]

from result_file import RESULTS, write_result

from support.faults.fault_play import FAULTS, Fault, Played, play, why_not
from support.faults.fault_scene import open_rig

_RESULT = RESULTS / "faults.json"


def main() -> int:
    given = _parser().parse_args()
    if given.list:
        for fault in FAULTS.values():
            print(f"{fault.name:<24} {fault.what}")
        return 0
    chosen = [FAULTS[name] for name in given.fault or FAULTS]
    played = _read(given.played)
    folder = Path(tempfile.mkdtemp(prefix="fusery-faults-"))
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    skipped = {fault.name: why for fault in chosen if (why := why_not(fault)) is not None}
    for name, why in skipped.items():
        print(f"{name}: left out: {why}")
    with open_rig(folder) as rig:
        wanted = [(seed, fault) for seed in seeds for fault in chosen if fault.name not in skipped]
        already = {(one.fault, one.seed) for one in played}
        for seed, fault in wanted:
            if (fault.name, seed) in already:
                continue
            played.append(play(rig, fault, seed))
            _tell(played[-1])
            if given.played is not None:
                with given.played.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(played[-1].as_json()) + "\n")
            if given.record:
                _write(played, skipped)
        if given.record:
            _write(played, skipped)
    failed = [one for one in played if one.error is not None]
    print(_table(_rows(played)))
    print(f"{len(played)} runs, {len(failed)} failed" + (f"; they are kept in {folder}" if failed else ""))
    if not failed:
        shutil.rmtree(folder)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Break real processes, and compare the bytes.")
    parser.add_argument("--fault", nargs="+", choices=[*FAULTS], metavar="NAME", help="only these (see --list)")
    parser.add_argument("--seeds", type=int, default=20, help="runs of each fault (default: 20)")
    parser.add_argument("--first-seed", type=int, default=1, metavar="S", help="the seeds are S, S+1, … (default: 1)")
    parser.add_argument("--list", action="store_true", help="show the faults and end")
    parser.add_argument(
        "--played", type=Path, metavar="FILE", help="JSON lines of runs: those are counted and not played again"
    )
    parser.add_argument("--record", action="store_true", help=f"write {_RESULT.name}; other faults keep their rows")
    return parser


def _read(file: Path | None) -> list[Played]:
    """The runs that ended well before; one that failed is played again."""
    if file is None or not file.exists():
        return []
    runs = [Played(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    return [run for run in runs if run.error is None]


def _tell(one: Played) -> None:
    recovery = "" if one.recovery_s is None else f", recovered in {one.recovery_s:.1f} s"
    print(f"{'ok    ' if one.error is None else 'FAILED'} {one.fault} seed {one.seed}: {one.seconds:.0f} s{recovery}")
    if one.error is not None:
        print(f"       {one.error}\n       kept in {one.folder}")
        print(f"       replay: python bench/faults.py --fault {one.fault} --first-seed {one.seed} --seeds 1")
        for note in one.notes:
            print(f"       {note}")
    sys.stdout.flush()


def _rows(played: list[Played]) -> list[dict[str, Any]]:
    """One row a fault: runs, failures, recovery in seconds (median, worst) and what is promised."""
    names = dict.fromkeys(one.fault for one in played)
    return [_row(FAULTS[name], [one for one in played if one.fault == name]) for name in names]


def _row(fault: Fault, runs: list[Played]) -> dict[str, Any]:
    times = [one.recovery_s for one in runs if one.recovery_s is not None and one.error is None]
    return {
        "fault": fault.name,
        "what": fault.what,
        "runs": len(runs),
        "first_seed": min(one.seed for one in runs),
        "failed_seeds": [one.seed for one in runs if one.error is not None],
        "median_s": round(statistics.median(times), 1) if times else None,
        "worst_s": max(times) if times else None,
        "goal_s": fault.goal_s,
        "run_s": round(statistics.median(one.seconds for one in runs), 1),
    }


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'fault':<24} {'runs':>4} {'failed':>6} {'median':>8} {'worst':>8} {'goal':>6}"]
    for row in rows:
        times = (row["median_s"], row["worst_s"], row["goal_s"])
        shown = [" " * 3 + "-" if time is None else f"{time:.1f} s" for time in times]
        counts = f"{row['runs']:>4} {len(row['failed_seeds']):>6}"
        lines.append(f"{row['fault']:<24} {counts} {shown[0]:>8} {shown[1]:>8} {shown[2]:>6}")
    return "\n".join(lines)


def _write(played: list[Played], skipped: dict[str, str]) -> None:
    before = json.loads(_RESULT.read_text(encoding="utf-8"))["faults"] if _RESULT.exists() else []
    rows = {row["fault"]: row for row in before} | {row["fault"]: row for row in _rows(played)}
    runs = sum(row["runs"] for row in rows.values())
    failed = sum(len(row["failed_seeds"]) for row in rows.values())
    write_result(
        "faults",
        measure="runs of the fault suite that did not leave the bytes of the undisturbed run",
        value=failed,
        unit=f"of {runs} runs",
        baseline=None,
        ratio=None,
        goal="0; recovery: child <= 5 s, worker <= 60 s, broker <= 60 s after it is back",
        faults=[rows[name] for name in FAULTS if name in rows],
        left_out=skipped,
    )


if __name__ == "__main__":
    sys.exit(main())
