"""A record of a small run with a pico model, as a finished run would give it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusery.registry.record import FusionRecord, ModelLicence, Origin


def evaluation() -> dict[str, Any]:
    """The keys of docs/evaluation-json.md that the registry reads, and one more."""

    def scores(code: float, prose: float) -> dict[str, Any]:
        domains = {"code": {"bits_per_byte": code}, "pro$e [x]": {"bits_per_byte": prose}}
        return {"mean_bits_per_byte": (code + prose) / 2, "domains": domains}

    sources = {"coder": scores(1.5, 3.0)}
    models = {"target_before": scores(2.4, 2.6), "clm": scores(2.2, 2.4), "fused": scores(2.1, 2.3), "sources": sources}
    gain = {"relative": {"value": -0.0435, "low": -0.05, "high": -0.03}}
    shares = {"positions": 0.5, "kept_mass": 0.9, "kept_mass_deciles": [n / 10 for n in range(1, 10)]}
    nothing = {"positions": 0.0, "kept_mass": None, "kept_mass_deciles": None}
    return {
        "format": 1,
        "models": models,
        "gains": {"clm": gain, "target_before": gain, "sources": {"coder": gain}},
        "coverage": {"coder": {"code": shares, "pro$e [x]": nothing}},
        "wins": {"code": {"coder": 1.0}},
        "warnings": ["source coder, domain code: evidence at 50.0%", "source coder, domain pro$e: none"],
        "verdict": verdict(True),
    }


def verdict(passed: bool) -> dict[str, Any]:
    check = {"name": "fewer bits per byte than CLM", "passed": passed, "reason": "−4.3 % bits per byte"}
    return {"passed": passed, "checks": [check], "rule": {"better_than": ["clm"]}}


def origin() -> Origin:
    licences = (
        ModelLicence("target", "models/docs", "apache-2.0", "README.md", "", None),
        ModelLicence("source coder", "owner/coder", "gemma", "its card on the Hub", "goes on under its terms", "today"),
    )
    return Origin(("docs", "owner/coder"), ("owner/texts",), "gemma", None, licences)


def report_folder(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "report.html").write_text("<!doctype html><title>report</title>", encoding="utf-8")
    (folder / "gains.png").write_bytes(b"\x89PNG")
    return folder


def metrics_file(path: Path, steps: int) -> Path:
    lines = [
        {"step": step, "clm_nats": 3.0 / step, "fusion_nats": 2.0 / step, "elapsed_s": step}
        for step in range(1, steps + 1)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def make_record() -> Callable[..., FusionRecord]:
    """`make_record(folder, model_folder, **changes)`: a record whose files lie in `folder`."""

    def make(folder: Path, model_folder: Path, **changes: Any) -> FusionRecord:
        (folder / "run.yaml").write_text("name: tiny\n", encoding="utf-8")
        content: dict[str, Any] = {
            "experiment": "fusions",
            "run_name": "tiny",
            "run_id": "tiny-0123456789",
            "model_name": "tiny",
            "alias": "candidate",
            "model_folder": model_folder,
            "config_file": folder / "run.yaml",
            "evaluation": evaluation(),
            "report_markdown": "| model | mean |\n|---|---:|\n| fused | **2.2** |",
            "metrics_files": {
                "fused": metrics_file(folder / "fused.jsonl", 350),
                "clm": metrics_file(folder / "clm.jsonl", 40),
            },
            "params": {"training.clm_weight": 0.9, "training.epochs": 1, "long": "x" * 7000, "none": None},
            "lineage": {"fusery.sources": "coder=3fa9", "fusery.corpus": "b01c"},
            "origin": origin(),
            "register_command": f"fusery register {folder / 'run.yaml'}",
            "datasets": {"corpus": "c" * 64, "held-out": "d" * 64},
            "report_folder": report_folder(folder / "report"),
            "training_runs": {"fused": "f" * 32},
            "input_example": "def fuse(",
        }
        return FusionRecord(**(content | changes))

    return make
