"""Data sets of a run as MLflow shows them: names, digests, and what each was for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

HELD_OUT = "held-out"


def dataset_inputs(digests: Mapping[str, str]) -> list[DatasetInput]:
    """One input for each data set, by name → digest; the held-out one is for evaluation, all else for training."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
        # MLflow keeps 36 characters of a digest.
        DatasetInput(
            Dataset(name, digest[:36], "fusery", name),
            [InputTag("mlflow.data.context", "evaluation" if name == HELD_OUT else "training")],
        )
        for name, digest in digests.items()
    ]
