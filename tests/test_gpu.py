"""On a CUDA device a source answers, and a training goes, as on the CPU, up to rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support.models.pico_models import TEXTS, pico_model

pytestmark = pytest.mark.gpu

# In processes of their own: accelerate takes one device for a process's life.
_TRAIN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fusery.trainer.job import train
from support.models.training_data import pico_job
train(pico_job(Path(sys.argv[2])))
import torch
print("used", torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0)
"""


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "mpt"])
def test_a_source_answers_on_a_gpu_as_on_the_cpu(architecture: str) -> None:
    from fusery.source.api import Document
    from fusery.source.engines.transformers import load_engine

    documents = [Document(f"d{number}", text) for number, text in enumerate(TEXTS)]
    answers = [
        load_engine(str(pico_model(architecture)), device=device).compute(documents, 8) for device in ("cpu", "cuda")
    ]
    for on_cpu, on_gpu in zip(*answers, strict=True):
        assert np.array_equal(on_cpu.token_ids_T, on_gpu.token_ids_T)
        np.testing.assert_allclose(on_gpu.next_log_probs_T, on_cpu.next_log_probs_T, atol=1e-3)
        # Tokens that are about equally likely may change places; what stands at a place may not.
        np.testing.assert_allclose(on_gpu.top.log_probs_RK, on_cpu.top.log_probs_RK, atol=1e-3)


def test_a_training_goes_on_a_gpu_as_on_the_cpu(tmp_path: Path) -> None:
    losses = {}
    for device, seen in (("cpu", {"CUDA_VISIBLE_DEVICES": ""}), ("cuda", {})):
        command = [sys.executable, "-c", _TRAIN, str(Path(__file__).parent), str(tmp_path / device)]
        done = subprocess.run(command, env={**os.environ, **seen}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert f"used {device == 'cuda'}" in done.stdout
        lines = (tmp_path / device / "metrics.jsonl").read_text().splitlines()
        losses[device] = [json.loads(line)["loss"] for line in lines]
    assert len(losses["cpu"]) > 1
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=1e-2)
