"""Does a model see the future? transformers loads encoders, prefix LMs and models with bidirectional attention as
causal LMs; trained on the next token such a target reads it off its input, and every measure of it is wrong.

The model itself is asked; or, where its weights are large or not here, two layers of its architecture with random
weights: what a position may see is a matter of config and code, not of weights.
"""

from __future__ import annotations

import copy
import logging
from contextlib import suppress
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from fusery.runtime.errors import ModelError

log = logging.getLogger(__name__)

_TOKENS, _SHARED, _IDS, _LAYERS = 24, 12, 64, 2
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
"""Of the largest logit; half-precision formats are given 2 %. Rows of a causal model differ by nothing, or a last bit;
those of an encoder with random weights of the usual size by 1e-3, with trained ones by far more."""
_LAYER_KEYS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    *("encoder_layers", "decoder_layers", "num_encoder_layers", "num_decoder_layers"),
)
_REFUSED = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, ImportError)


def check_causal(model: PreTrainedModel, name: str) -> None:
    """Returns if no position of `model` sees a later token; two forward passes of 24 tokens.

    Raises:
        ModelError: one does.
    """
    training = model.training
    model.train(False)
    try:
        reason = _sees_the_future(model)
    except _REFUSED as error:
        # A model that can't be asked like this is asked by its own engine, or fails in training with its own words.
        log.debug("%s: not asked whether it is causal: %s", name, error)
        return
    finally:
        model.train(training)
    if reason is not None:
        raise ModelError(
            f"{name}: {type(model).__name__} sees later tokens of the text ({reason}): it is an encoder, a prefix LM "
            "or has bidirectional attention, and would read the next token off its input; take a causal one. "
            "If its config.json has is_decoder, causal, is_causal or use_bidirectional_attention, check it"
        )


@torch.no_grad()
def _sees_the_future(model: PreTrainedModel) -> str | None:
    embeddings: Any = model.get_input_embeddings()
    # 0 is the padding of many models, which leave it out.
    vocabulary = min(_IDS, int(embeddings.weight.shape[0]))
    ids = torch.arange(_TOKENS) * 7 % (vocabulary - 2) + 1
    other = torch.where(torch.arange(_TOKENS) < _SHARED, ids, ids.flip(0) + 1)
    rows = [_logits(model, some.to(embeddings.weight.device)) for some in (ids, other)]
    before, largest = (rows[0] - rows[1])[:_SHARED].abs().amax(), rows[0].abs().amax()
    share = float(before / largest.clamp_min(1e-30))
    return (
        None
        if share <= _TOLERANCE.get(model.dtype, 0.02)
        else f"where two texts begin alike, logits differ by {share:.1e}"
    )


def _logits(model: PreTrainedModel, ids_T: torch.Tensor) -> torch.Tensor:
    """Logits float32 [T, V] of one text."""
    given = {"input_ids": ids_T[None], "attention_mask": torch.ones_like(ids_T)[None]}
    try:
        output = model(**given, use_cache=False)
    except (TypeError, ValueError):
        output = model(**given)
    logits_TV: torch.Tensor = output.logits[0].float()
    return logits_TV


def check_architecture(config: Any, name: str) -> None:
    """As `check_causal`, of an architecture: two layers and a small vocabulary, random weights of the config's width.

    Raises:
        ModelError: it sees later tokens.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            from_config: Any = AutoModelForCausalLM.from_config
            model = from_config(_shrunk(config), dtype=torch.float32)
    except _REFUSED as error:
        log.debug("%s: no small model of its architecture: %s", name, error)
        return
    check_causal(model, name)


def _shrunk(config: Any) -> Any:
    """A copy with two layers and a small vocabulary, as far as the config lets itself be changed."""
    small = copy.deepcopy(config)
    for part in {id(part): part for part in (small, small.get_text_config(decoder=True))}.values():
        fields: dict[str, Any] = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
        layers = {key: getattr(part, key, None) for key in _LAYER_KEYS}
        fields |= {key: min(_LAYERS, count) for key, count in layers.items() if isinstance(count, int)}
        fields["vocab_size"] = _IDS
        if isinstance(layer_types := getattr(part, "layer_types", None), list):
            fields["layer_types"] = layer_types[:_LAYERS]
        for key, value in fields.items():
            with suppress(*_REFUSED):
                setattr(part, key, value)
    return small
