"""Metrics of a training: one JSON line per step, each step exactly once, however often the training was resumed.

A file on this machine costs a step nothing; what tracks runs reads it, or gets the callback.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

from fusery.registry.training_metrics import read_lines

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One step; losses in nats per row, masses as probabilities; None where there is nothing to say.

    `loss` and `grad_norm` are None at a step that was skipped because they were not finite. `tokens` are those of
    this step over all processes; `elapsed_s` adds up over resumptions. `held_out_nats`: where it was measured after
    this step. `time_s`: Unix time of its end; `peak_memory_mb`: of the main process, and of its accelerator.
    """

    step: int
    epoch: int
    loss: float | None
    clm_nats: float | None
    fusion_nats: float | None
    kept_mass: float | None
    target_mass_on_support: float | None
    learning_rate: float
    grad_norm: float | None
    tokens: int
    tokens_per_s: float
    elapsed_s: float
    skipped: bool = False
    held_out_nats: float | None = None
    time_s: float = 0.0
    peak_memory_mb: float = 0.0
    peak_device_memory_mb: float | None = None


BOUNDS = {"kept_mass": (0.1, 1.001), "target_mass_on_support": (0.01, 1.001)}
"""Outside of them something is wrong with the evidence: another partition, another vocabulary, a damaged share."""


@dataclass(slots=True)
class Alarms:
    """Says once when a mass leaves its bounds, and once when it is back."""

    _outside: set[str] = field(default_factory=set)

    def look(self, metrics: StepMetrics) -> None:
        for name, (low, high) in BOUNDS.items():
            value: float | None = getattr(metrics, name)
            if value is None:
                continue
            is_outside = not low <= value <= high
            if is_outside and name not in self._outside:
                log.warning("step %d: %s is %.4f, expected %g to %g", metrics.step, name, value, low, high)
            elif not is_outside and name in self._outside:
                log.warning("step %d: %s is %.4f, within its bounds again", metrics.step, name, value)
            (self._outside.add if is_outside else self._outside.discard)(name)


class MetricsLog:
    """The file metrics.jsonl, opened at a step: what stands there of later steps is cut off."""

    def __init__(self, path: Path, after_step: int) -> None:
        kept = [line for line in read_lines(path, until_damage=True) if line["step"] <= after_step]
        draft = path.with_suffix(".tmp")
        draft.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        draft.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, metrics: StepMetrics) -> None:
        """One line, in the file at once: a killed training loses no finished step."""
        self._file.write(json.dumps(asdict(metrics), allow_nan=False) + "\n")
        self._file.flush()
