"""A model that sees later tokens is told from one that does not, by itself or by its architecture alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from fusery.models.causality import check_architecture, check_causal
from fusery.runtime.errors import ModelError
from support.models.pico_models import ARCHITECTURES, pico_config

_WIDE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
_BART = {
    "vocab_size": 300,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 128,
}
_CPM_ANT = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "dim_head": 8,
    "dim_ff": 48,
    "num_hidden_layers": 3,
    "prompt_length": 4,
    "prompt_types": 4,
    "segment_types": 4,
}

SEEING: dict[str, Any] = {
    "encoder": lambda: transformers.BertConfig(**_WIDE),
    "encoder with its own positions": lambda: transformers.RobertaConfig(**_WIDE),
    "encoder with a small embedding": lambda: transformers.ElectraConfig(**_WIDE, embedding_size=32),
    "encoder with rotary positions": lambda: transformers.RoFormerConfig(**_WIDE, embedding_size=32),
    "encoder with normalisation first": lambda: transformers.MegatronBertConfig(**_WIDE),
    "permutation LM": lambda: transformers.XLNetConfig(vocab_size=300, d_model=32, n_layer=3, n_head=4, d_inner=48),
    "masked LM by a flag": lambda: transformers.XLMConfig(vocab_size=300, emb_dim=32, n_layers=3, n_heads=4),
    "prefix LM": lambda: transformers.CpmAntConfig(**_CPM_ANT),
    "decoder with bidirectional attention": lambda: pico_config("gemma3", 300, use_bidirectional_attention=True),
}
CAUSAL: dict[str, Any] = {
    **{name: (lambda name=name: pico_config(name, 300)) for name in ARCHITECTURES},
    "encoder as a decoder": lambda: transformers.BertConfig(**_WIDE, is_decoder=True),
    "the decoder of an encoder-decoder": lambda: transformers.BartConfig(**_BART),
    "causal by a flag": lambda: transformers.XLMConfig(vocab_size=300, emb_dim=32, n_layers=3, n_heads=4, causal=True),
    "state space": lambda: transformers.MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=3),
    "experts": lambda: transformers.MixtralConfig(**_WIDE, num_key_value_heads=2, num_local_experts=4),
    "linear attention": lambda: transformers.Qwen3NextConfig(**_WIDE, num_key_value_heads=2, head_dim=8),
}


def model_of(config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("config", SEEING.values(), ids=list(SEEING))
def test_a_model_that_sees_the_future_is_refused(config: Any) -> None:
    with pytest.raises(ModelError, match=r"target x: .* sees later tokens of the text"):
        check_causal(model_of(config()), "target x")
    with pytest.raises(ModelError, match="take a causal one"):
        check_architecture(config(), "target x")


@pytest.mark.parametrize("config", CAUSAL.values(), ids=list(CAUSAL))
def test_a_causal_model_passes(config: Any) -> None:
    check_causal(model_of(config()), "target x")
    check_architecture(config(), "target x")


def test_the_model_stays_in_the_mode_that_it_was_in() -> None:
    model = model_of(pico_config("llama", 300)).train(True)
    check_causal(model, "target x")
    assert model.training


def test_an_architecture_is_asked_without_the_size_of_its_model() -> None:
    config = pico_config("llama", 1 << 30, num_hidden_layers=100_000)
    check_architecture(config, "target x")
    assert (config.vocab_size, config.num_hidden_layers) == (1 << 30, 100_000)
