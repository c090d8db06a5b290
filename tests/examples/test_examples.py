from __future__ import annotations

from pathlib import Path

import pytest

from fusery.config.file import read_run_file
from fusery.config.sections import TrainingSpec
from fusery.core.rules import Cost, FusionRule, Positions, Tail, Vocabulary

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.yaml")))
def test_every_example_is_a_valid_run(name: str) -> None:
    run = read_run_file(EXAMPLES / name)
    # The same run on other services keeps its name, and so what it has made.
    assert run.config.name == name.removesuffix(".yaml").removesuffix("-services")


def test_the_papers_run_has_the_papers_settings() -> None:
    config = read_run_file(EXAMPLES / "paper.yaml").config
    assert config.target.model == "meta-llama/Llama-2-7b-hf"
    assert [source.model for source in config.sources] == [
        "meta-llama/Llama-2-7b-hf",
        "openlm-research/open_llama_7b_v2",
        "mosaicml/mpt-7b",
    ]
    assert (config.capture.top_k, config.fusion.rule, config.fusion.cost) == (
        10,
        FusionRule.MIN_CE,
        Cost.TOKEN_CE,
    )
    assert (config.alignment.positions, config.alignment.vocabulary) == (Positions.DTW, Vocabulary.MIN_ED)
    training = config.training
    assert (training.clm_weight, training.tail, training.epochs) == (0.9, Tail.RENORMALISE, 1)
    assert (training.learning_rate, training.warmup_ratio, training.batch_sequences) == (1e-5, 0.008, 128)
    assert (training.beta1, training.beta2, training.weight_decay, training.max_grad_norm) == (0.9, 0.95, 0.1, 1.0)
    assert (training.sequence_length, training.dtype) == (2048, "bfloat16")


def test_our_defaults_are_our_own_rules_and_else_the_papers_training() -> None:
    config = read_run_file(EXAMPLES / "tiny.yaml").config
    assert (config.alignment.positions, config.alignment.vocabulary) == (Positions.BOUNDARY, Vocabulary.PARTITION)
    assert TrainingSpec().tail is Tail.TAIL
    assert (TrainingSpec().clm_weight, TrainingSpec().learning_rate) == (0.3, 1e-5)
