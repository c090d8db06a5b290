"""The target is asked what every source is asked: row i predicts token i+1 and sees nothing behind it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fusery.hops.names import plan_name
from fusery.models.inspect import inspect_checkpoint
from fusery.run.open_run import open_run
from fusery.run.preflight import checks as preflight_checks
from fusery.run.preflight.checks import check_run, check_target
from fusery.runtime.errors import ModelError
from fusery.trainer.job import train
from support.models.pico_models import ARCHITECTURES, pico_model, pico_tokenizer
from support.models.training_data import pico_job
from support.runs.pico_run import write_run
from support.runs.refusals import assert_nothing_was_done

_BERT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def saved(folder: Path, model: Any, kind: str = "byte_level") -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=pico_tokenizer(kind)).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    return folder


def encoder(folder: Path) -> Path:
    config = transformers.BertConfig(vocab_size=430, max_position_embeddings=256, **_BERT)
    return saved(folder, transformers.BertLMHeadModel(config))


def unshifted(folder: Path) -> Path:
    """A causal model that gives nearly all mass to the token just read, as training on unshifted labels makes it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(pico_model("llama", "byte_level"))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.copy_(20 * torch.nn.functional.normalize(model.model.embed_tokens.weight, dim=1))
    return saved(folder, model)


def test_an_encoder_as_target_is_refused_before_any_work(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    encoder(tmp_path / "models/target")
    with pytest.raises(ModelError, match=r"target .*models/target: BertLMHeadModel sees later tokens of the text"):
        check_run(open_run(file))
    assert_nothing_was_done(file)


def test_a_head_that_is_off_by_one_is_refused_before_any_work(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    unshifted(tmp_path / "models/target")
    with pytest.raises(ModelError, match=r"shift: rows give 1.00 to the token just read.*not shifted"):
        check_run(open_run(file))
    assert_nothing_was_done(file)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_untrained_targets_of_every_architecture_pass(architecture: str, seed: int) -> None:
    folder = pico_model(architecture, seed=seed)
    check_target(str(folder), inspect_checkpoint(str(folder)))


def test_a_target_too_large_to_load_is_asked_by_its_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight_checks, "_LOADED_BYTES", 0)
    folder = encoder(tmp_path / "bert")
    checkpoint = inspect_checkpoint(str(folder))
    with pytest.raises(ModelError, match="sees later tokens"):
        check_target(str(folder), checkpoint)
    good = pico_model("gpt2")
    check_target(str(good), inspect_checkpoint(str(good)))


def test_a_target_whose_tokenizer_or_context_holds_no_probe_passes(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=430, n_positions=4, n_embd=32, n_layer=2, n_head=4)
    folder = saved(tmp_path / "short", transformers.GPT2LMHeadModel(config))
    check_target(str(folder), inspect_checkpoint(str(folder)))


def test_a_training_asks_again_what_a_check_could_not_load(tmp_path: Path) -> None:
    folder = encoder(tmp_path / "bert")
    with pytest.raises(ModelError, match="BertLMHeadModel sees later tokens"):
        train(pico_job(tmp_path / "out", target=str(folder)))


def test_a_run_that_has_a_plan_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(write_run(tmp_path))
    run.store.write_note(plan_name(run.run_id), {})
    asked: list[str] = []
    monkeypatch.setattr("fusery.run.preflight.checks.check_target", lambda model, _: asked.append(model))
    check_run(run)
    assert not asked
