"""Body and head together are the model: logits, gradients, caps and scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fusery.core.rules import Dtype
from fusery.models.head import SplitModel, split
from fusery.models.loading import load_model
from support.models.pico_models import ARCHITECTURES, pico_config, pico_model

torch.set_num_threads(1)

SMALL: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(1, 100, (3, 40), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 25:] = 0
    mask[2, 3:] = 0
    return ids, mask


def assert_same_logits(parts: SplitModel, rtol: float = 1e-4) -> None:
    ids, mask = batch()
    with torch.no_grad():
        ours = parts.logits(parts.hidden(ids, mask))
        models = parts.model(input_ids=ids, attention_mask=mask).logits.float()
    assert ours.dtype == torch.float32
    real = mask.bool()
    torch.testing.assert_close(ours[real], models[real], rtol=rtol, atol=rtol * float(models.abs().max()))


def build(config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_pico_architecture_splits_and_gives_its_own_logits(architecture: str) -> None:
    parts = split(load_model(str(pico_model(architecture))))
    assert parts.head is not None
    assert parts.head.weight_VD is parts.model.get_output_embeddings().weight
    assert_same_logits(parts)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mpt"])
def test_half_precision_models_split_too_and_logits_are_float32(architecture: str) -> None:
    parts = split(load_model(str(pico_model(architecture)), None, Dtype.BFLOAT16))
    assert parts.head is not None
    assert_same_logits(parts, rtol=0.03)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_on_the_right_does_not_reach_real_tokens(architecture: str) -> None:
    parts = split(load_model(str(pico_model(architecture))))
    ids, mask = batch()
    with torch.no_grad():
        padded = parts.logits(parts.hidden(ids, mask))[1, :25]
        alone = parts.logits(parts.hidden(ids[1:2, :25], mask[1:2, :25]))[0]
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-4)


def test_a_soft_cap_is_found_though_small_logits_do_not_show_it() -> None:
    parts = split(build(pico_config("gemma3", 120, initializer_range=0.01, final_logit_softcapping=30.0)))
    assert parts.softcap == 30.0
    assert_same_logits(parts)


def test_a_soft_cap_that_the_model_does_not_apply_is_not_applied() -> None:
    model = build(transformers.LlamaConfig(**SMALL))
    model.config.final_logit_softcapping = 1.0
    parts = split(model)
    assert parts.head is not None
    assert parts.softcap is None
    assert_same_logits(parts)


def test_cohere_multiplies_by_its_scale_and_granite_divides_by_it() -> None:
    cohere = split(build(transformers.CohereConfig(**SMALL, logit_scale=0.0625)))
    assert cohere.scale == 0.0625
    assert_same_logits(cohere)
    granite = split(build(transformers.GraniteConfig(**SMALL, logits_scaling=8.0)))
    assert granite.scale == 0.125
    assert_same_logits(granite)


def test_a_bias_of_the_head_is_kept() -> None:
    config = transformers.PhiConfig(**{**SMALL, "num_key_value_heads": 4})
    model = build(config)
    with torch.no_grad():
        model.lm_head.bias.copy_(torch.linspace(-3, 3, 120))
    parts = split(model)
    assert parts.head.bias_V is model.lm_head.bias
    assert_same_logits(parts)


class _Unusual(transformers.LlamaForCausalLM):  # type: ignore[misc]
    """A head that no config key describes."""

    def forward(self, *inputs: Any, **named: Any) -> Any:
        output = super().forward(*inputs, **named)
        output.logits = output.logits + torch.sin(output.logits)
        return output


def test_a_model_with_an_unknown_head_works_whole() -> None:
    parts = split(_Unusual(transformers.LlamaConfig(**SMALL)).eval())
    assert parts.head is None
    assert parts.head is None
    assert parts.scale == 1.0
    assert parts.softcap is None
    ids, mask = batch()
    assert parts.hidden(ids, mask).shape == (3, 40, 120)
    assert_same_logits(parts)


def test_gradients_reach_the_body_and_the_head() -> None:
    parts = split(load_model(str(pico_model("llama"))))
    ids, mask = batch()
    parts.logits(parts.hidden(ids, mask)[mask.bool()]).logsumexp(dim=1).sum().backward()
    assert parts.head is not None
    assert parts.head.weight_VD.grad is not None
    assert all(parameter.grad is not None for parameter in parts.model.parameters())


@pytest.mark.parametrize("architecture", ["llama", "mpt"])
def test_position_ids_are_used_where_there_are_positions(architecture: str) -> None:
    parts = split(load_model(str(pico_model(architecture))))
    ids, mask = batch()
    positions = torch.arange(40).expand(3, 40)
    with torch.no_grad():
        usual, given = parts.hidden(ids, mask), parts.hidden(ids, mask, positions)
        scattered = parts.hidden(ids, mask, positions * positions)
    torch.testing.assert_close(usual, given)
    assert torch.equal(usual, scattered) == (architecture == "mpt")


def test_splitting_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = load_model(str(pico_model("gpt2")))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    parts = split(model)
    assert model.training
    assert parts.model is model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.get_output_embeddings()._forward_pre_hooks
