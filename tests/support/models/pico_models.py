"""Pico models: every architecture and every kind of tokenizer that matters, in milliseconds and kilobytes.

Built from a seed, saved as plain Hugging Face folders (config.json, model.safetensors, tokenizer.json), once
per process and shape. Weights are random but wide, so distributions are far from uniform and soft caps bite.

    folder = pico_model("llama")                          # SentencePiece-style BPE with BOS, as Llama has
    folder = pico_model("mpt", "byte_level", seed=3)
    tokenizer = pico_tokenizer("unigram")                 # a tokenizers.Tokenizer
"""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from fusery.core.tokens import ByteTokenizer

TEXTS = (
    "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs.\n",
    "def fuse(sources, target):\n    for source in sources:\n        yield source.align(target)\n",
    "Knowledge fusion of large language models merges the distributions of several sources into one target.\n",
    "int main(int argc, char **argv) {\n\treturn argc > 1 ? 0 : 1;\n}\n",
    "In 1974 the naïve café owner paid 12.50 for “three” cups — déjà vu. Grüße aus Köln, 東京 and 😀.\n",
    "Each document is read by every source; what follows each token is kept, most probable first.\n",
)
"""What the tokenizers are trained on, and text that every pico tokenizer spells."""

ARCHITECTURES = ("llama", "mpt", "gpt_neox", "gpt2", "gemma3", "qwen2")
TOKENIZERS = ("byte_level", "sentencepiece", "unigram")
CONTEXT_LENGTH = 256

_USUAL_TOKENIZER = {"llama": "sentencepiece", "gemma3": "sentencepiece"}


def _byte_level(size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1")
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 2, trainer)
    return tokenizer


def _sentencepiece(size: int) -> Tokenizer:
    """As Llama's: Metaspace, byte fallback, BOS; ids are <unk> <s> </s>, 256 bytes, then the learned pieces."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=size - 259, show_progress=False, limit_alphabet=80)
    tokenizer.train_from_iterator([text.replace("\n", " ").replace("\t", " ") for text in TEXTS] * 2, trainer)
    definition = json.loads(tokenizer.to_str())
    learned = sorted(definition["model"]["vocab"], key=definition["model"]["vocab"].__getitem__)
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learned]
    definition["model"]["vocab"] = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer.from_str(json.dumps(definition))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def _unigram(size: int) -> Tokenizer:
    """As XLNet's or T5's: Metaspace, no byte fallback, so unseen characters are <unk>."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1")
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, *(chr(code) for code in range(9, 127))] * 2, trainer)
    return tokenizer


_TRAINERS: dict[str, tuple[Callable[[int], Tokenizer], int]] = {
    "byte_level": (_byte_level, 420),
    "sentencepiece": (_sentencepiece, 560),
    "unigram": (_unigram, 330),
}
_SPECIAL: dict[str, dict[str, str]] = {
    "byte_level": {"eos_token": "<|endoftext|>"},
    "sentencepiece": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "unigram": {"unk_token": "<unk>", "eos_token": "</s>"},
}


@functools.cache
def pico_tokenizer(kind: str) -> Tokenizer:
    """A trained tokenizer of one of TOKENIZERS; the same object at every call, so never change it."""
    train, size = _TRAINERS[kind]
    tokenizer = train(size)
    tokenizer.add_special_tokens(list(_SPECIAL[kind].values()))
    return tokenizer


@functools.cache
def pico_byte_tokenizer(kind: str) -> ByteTokenizer:
    """The same as `read_tokenizer` gives for a pico model with this kind of tokenizer."""
    return ByteTokenizer(pico_tokenizer(kind), [1] if kind == "sentencepiece" else [], name=kind)


def pico_config(architecture: str, vocabulary_size: int, **changes: Any) -> Any:
    """A transformers config of one of ARCHITECTURES, width 32, two layers; `changes` are in its own words."""
    import transformers

    usual: dict[str, Any] = {
        "vocab_size": vocabulary_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT_LENGTH,
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    grouped = usual | {"num_key_value_heads": 2}
    match architecture:
        case "llama":
            config = transformers.LlamaConfig(**(grouped | changes))
        case "qwen2":
            config = transformers.Qwen2Config(**(grouped | {"tie_word_embeddings": True} | changes))
        case "gpt_neox":
            config = transformers.GPTNeoXConfig(**(usual | changes))
        case "gemma3":
            capped = {"head_dim": 8, "sliding_window": 16, "final_logit_softcapping": 5.0}
            config = transformers.Gemma3TextConfig(**(grouped | capped | changes))
        case "gpt2":
            short = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT_LENGTH, "initializer_range": 0.2}
            ids = {"bos_token_id": 0, "eos_token_id": 0}
            config = transformers.GPT2Config(**({"vocab_size": vocabulary_size} | short | ids | changes))
        case "mpt":
            short = {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": CONTEXT_LENGTH}
            config = transformers.MptConfig(
                **({"vocab_size": vocabulary_size, "initializer_range": 0.2} | short | changes)
            )
        case _:
            raise ValueError(f"no pico model of architecture {architecture!r}; there are {ARCHITECTURES}")
    return config


def build_model(
    folder: Path, architecture: str, tokenizer: str | None = None, *, seed: int = 0, **changes: Any
) -> Path:
    """Saves a pico checkpoint in `folder` and returns it. A few logits more than tokens, as real models have."""
    import torch
    import transformers

    kind = tokenizer or _USUAL_TOKENIZER.get(architecture, "byte_level")
    backend = pico_tokenizer(kind)
    config = pico_config(architecture, backend.get_vocab_size() + 7, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **_SPECIAL[kind]).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    return folder


@functools.cache
def _home() -> Path:
    home = Path(tempfile.mkdtemp(prefix="pico_models-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


@functools.cache
def pico_model(architecture: str, tokenizer: str | None = None, seed: int = 0) -> Path:
    """The folder of a pico checkpoint, built at the first call of the process; never write into it."""
    kind = tokenizer or _USUAL_TOKENIZER.get(architecture, "byte_level")
    return build_model(_home() / f"{architecture}-{kind}-{seed}", architecture, kind, seed=seed)
