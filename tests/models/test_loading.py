"""Loading takes safetensors whole or not at all, and a fingerprint says what was loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusery.core.rules import Dtype
from fusery.models.loading import load_model, weights_fingerprint
from fusery.models.tokenizer import read_tokenizer
from fusery.runtime.errors import ModelError
from support.models.pico_models import ARCHITECTURES, build_model, pico_model, pico_tokenizer


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(pico_model("llama"), tmp_path / "model"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [Dtype.FLOAT32, Dtype.BFLOAT16])
def test_every_architecture_loads_for_evaluation_in_the_asked_format(architecture: str, dtype: Dtype) -> None:
    model = load_model(str(pico_model(architecture)), None, dtype)
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype.value)}


def test_the_attention_implementation_can_be_chosen() -> None:
    model = load_model(str(pico_model("llama")), attention="eager")
    assert model.config._attn_implementation == "eager"


def test_missing_weights_are_an_error_and_never_random(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing.*layers\.1\.mlp\.up_proj"):
        load_model(str(copy))


def test_weights_of_another_shape_are_an_error(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"][:-3].clone()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lm_head"):
        load_model(str(copy))


def test_tied_embeddings_are_not_missing() -> None:
    model = load_model(str(pico_model("qwen2")))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_the_tokenizer_of_a_model_with_bos_knows_its_prefix() -> None:
    tokenizer = read_tokenizer(pico_model("llama"), str(pico_model("llama")))
    assert tokenizer.prefix_ids.tolist() == [pico_tokenizer("sentencepiece").token_to_id("<s>")]
    assert tokenizer.name == pico_model("llama").name


def test_the_tokenizer_of_a_model_without_bos_has_no_prefix() -> None:
    assert read_tokenizer(pico_model("gpt2"), "m").prefix_ids.tolist() == []


def test_a_tokenizer_without_a_fast_form_is_refused(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    (copy / "vocab.json").write_text("{}")
    with pytest.raises(ModelError, match="tokenizer"):
        read_tokenizer(copy, "m")


def test_a_tokenizer_that_brings_code_is_never_run(copy: Path) -> None:
    (copy / "own.py").write_text("raise SystemExit('this code was run')")
    fields = json.loads((copy / "tokenizer_config.json").read_text())
    fields.update(tokenizer_class="OwnTokenizer", auto_map={"AutoTokenizer": ["own.OwnTokenizer", None]})
    (copy / "tokenizer_config.json").write_text(json.dumps(fields))
    with pytest.raises(ModelError, match="code that comes with it is never run") as caught:
        read_tokenizer(copy, "m")
    assert "trust_remote_code=True" not in str(caught.value)


def test_the_fingerprint_is_of_content_and_format_and_not_of_the_place(copy: Path, tmp_path: Path) -> None:
    original = weights_fingerprint(str(pico_model("llama")))
    assert weights_fingerprint(str(copy)) == original
    assert weights_fingerprint(str(copy), None, Dtype.BFLOAT16) != original
    fields = json.loads((copy / "config.json").read_text())
    fields.update(_name_or_path="elsewhere", transformers_version="9.9.9")
    (copy / "config.json").write_text(json.dumps(fields, indent=7))
    assert weights_fingerprint(str(copy)) == original
    fields["rms_norm_eps"] = 0.5
    (copy / "config.json").write_text(json.dumps(fields))
    assert weights_fingerprint(str(copy)) != original
    other = build_model(tmp_path / "other", "llama", seed=1)
    assert weights_fingerprint(str(other)) != original


def test_placing_over_all_devices_gives_the_same_weights() -> None:
    plain, placed = load_model(str(pico_model("llama"))), load_model(str(pico_model("llama")), device="auto")
    for one, other in zip(plain.parameters(), placed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match="can't be put on device 'cuda:77'"):
        load_model(str(pico_model("llama")), device="cuda:77")


def test_quantised_weights_of_a_package_that_is_not_there_are_refused_with_its_name(copy: Path) -> None:
    fields = json.loads((copy / "config.json").read_text())
    fields["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}
    (copy / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ModelError, match=r"can't be loaded: .*(gptq|GPTQ|optimum)"):
        load_model(str(copy))
