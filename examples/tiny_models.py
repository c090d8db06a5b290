"""Three architectures, each trained from nothing into the expert of one domain, on one CPU thread.

A fixed number of steps, never of seconds, with one seed and one thread: the same machine makes the same bytes. The
price is that a slower machine takes longer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MptConfig,
    MptForCausalLM,
    PreTrainedModel,
)
from transformers.utils.logging import disable_progress_bar

from tiny_muon import Muon
from tiny_tokenizers import CONTEXT_TOKENS

if TYPE_CHECKING:
    from make_tiny import Recipe


def build(domain: str, recipe: Recipe, tokenizer: Tokenizer, seed: int) -> PreTrainedModel:
    """The domain's architecture with random weights and tied embeddings."""
    torch.manual_seed(seed)
    bos = tokenizer.token_to_id("<s>" if domain == "docs" else "<|endoftext|>")
    eos = tokenizer.token_to_id("</s>" if domain == "docs" else "<|endoftext|>")
    return _BUILDERS[domain](
        recipe, {"bos_token_id": bos, "eos_token_id": eos, "vocab_size": tokenizer.get_vocab_size()}
    )


def _llama(recipe: Recipe, ids: dict[str, Any]) -> PreTrainedModel:
    config = LlamaConfig(
        hidden_size=recipe.width,
        intermediate_size=8 * recipe.width // 3,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        **ids,
    )
    return LlamaForCausalLM(config)


def _gpt_neox(recipe: Recipe, ids: dict[str, Any]) -> PreTrainedModel:
    config = GPTNeoXConfig(
        hidden_size=recipe.width,
        intermediate_size=4 * recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        **ids,
    )
    return GPTNeoXForCausalLM(config)


def _mpt(recipe: Recipe, ids: dict[str, Any]) -> PreTrainedModel:
    config = MptConfig(
        d_model=recipe.width, n_layers=recipe.layers, n_heads=recipe.heads, max_seq_len=CONTEXT_TOKENS, **ids
    )
    return MptForCausalLM(config)


_BUILDERS = {"docs": _llama, "python": _gpt_neox, "cpp": _mpt}


def train(model: PreTrainedModel, tokenizer: Tokenizer, texts: Sequence[str], recipe: Recipe, seed: int) -> None:
    """Train on random windows of the texts, which start where a line does, as the demo's chunks do."""
    torch.set_num_threads(1)
    optimizers = _optimizers(model, recipe)
    schedules = [torch.optim.lr_scheduler.LambdaLR(one, partial(_rate, recipe)) for one in optimizers]
    model.train()
    for ids_BT in _windows(tokenizer, texts, recipe, seed):
        logits_BTV = model(input_ids=ids_BT).logits
        loss = cross_entropy(logits_BTV[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten())
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
    model.train(False)


def _optimizers(model: PreTrainedModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the inner matrices, AdamW for the embeddings and the vectors."""
    embeddings = {id(p) for p in model.parameters() if p.shape[0] == model.config.vocab_size}
    inner = [p for p in model.parameters() if p.ndim == 2 and id(p) not in embeddings]
    outer = [p for p in model.parameters() if id(p) in embeddings or p.ndim < 2]
    return [
        Muon(inner, lr=recipe.muon_rate, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(outer, lr=recipe.adam_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def _rate(recipe: Recipe, step: int) -> float:
    warmup = max(1, round(recipe.warmup * recipe.steps))
    return min((step + 1) / warmup, (recipe.steps - step) / (recipe.steps - warmup + 1))


def _windows(tokenizer: Tokenizer, texts: Sequence[str], recipe: Recipe, seed: int) -> Iterator[torch.Tensor]:
    """`steps` batches of token ids [B, T], each window's first token a BOS where the tokenizer has the habit."""
    bos = tokenizer.encode("").ids
    stream: list[int] = []
    starts: list[int] = []
    for text in texts:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        breaks = [i for i, token in enumerate(encoding.tokens) if token[0] in "\n\u010a" or token == "<0x0A>"]
        starts += [len(stream)] + [len(stream) + i + 1 for i in breaks]
        stream += encoding.ids
    body = recipe.window_tokens - len(bos)
    starts = [start for start in starts if start + body <= len(stream)]
    ids, starts_N = torch.tensor(stream), torch.tensor(starts)
    generator = torch.Generator().manual_seed(seed)
    offsets_T = torch.arange(body)
    for _ in range(recipe.steps):
        picks_B = starts_N[torch.randint(len(starts), (recipe.batch,), generator=generator)]
        body_BT = ids[picks_B[:, None] + offsets_T]
        yield torch.cat([torch.tensor(bos, dtype=torch.long).expand(recipe.batch, -1), body_BT], dim=1)


def save(model: PreTrainedModel, folder: Path) -> None:
    """Weights as safetensors, with the configurations; for every user to read, as containers have their own."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


def bits_per_byte(model: PreTrainedModel, tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Mean bits per byte over each text alone; the first token of a model without BOS is not predicted, nor counted."""
    nats, n_bytes = 0.0, 0
    with torch.inference_mode():
        for text in texts:
            encoding = tokenizer.encode(text)
            ids_T = torch.tensor(encoding.ids[:CONTEXT_TOKENS])
            logits_TV = model(input_ids=ids_T[None]).logits[0]
            nats += float(cross_entropy(logits_TV[:-1], ids_T[1:], reduction="sum"))
            n_bytes += len(text[encoding.offsets[0][1] :].encode())
    return nats / math.log(2) / n_bytes
