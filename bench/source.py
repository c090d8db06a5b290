"""Capture through the service against a bare forward and top-k of the same batches; memory; the wire.

    python bench/source.py [--model examples/work/tiny/models/python …] [--device cpu] [--dtype float32] [--top-k 10]

For every model the same batches of Python's own documentation go, one after the other and in turns, (1) through a real
gRPC server and client in this process, (2) straight through the model: dense logits, logsumexp, top-k. The ratio is
bare time by service time: 1 means that the service costs nothing. Memory: of a process of its own, for a model with
262,144 tokens and random weights, rows in chunks against dense logits. Wire: packing and unpacking at k = 10.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from pydoc_data.topics import topics

import numpy as np
from memory import peak_mb
from result_file import write_result

TINY = ROOT / "examples" / "work" / "tiny" / "models" / "python"
SMOLLM2 = ROOT / "examples" / "work" / "small-llms" / "models" / "smollm2"
WIDE_VOCABULARY, WIDE_ROWS = 262_144, 1024


def batches(batch_bytes: int, count: int, document_bytes: int = 1000) -> Iterator[list[Any]]:
    from fusery.source.api import Document

    text = "\n".join(topics[name] for name in sorted(topics))
    cut = [text[start : start + document_bytes] for start in range(0, count * batch_bytes, document_bytes)]
    of_batch = batch_bytes // document_bytes
    for start in range(0, len(cut), of_batch):
        yield [Document(f"d{i}", document) for i, document in enumerate(cut[start : start + of_batch])]


def bare(engine: Any, documents: list[Any], top_k: int) -> int:
    """What a script would do: one forward with all logits, their logsumexp and top-k. Number of real tokens."""
    import torch

    from fusery.source.engines.transformers import _padded

    texts = engine.tokenizer.tokenize_batch([document.text for document in documents])
    ids_BT, mask_BT, _ = (
        a.to(engine.network.model.device) for a in _padded(texts, [len(text.ids_T) for text in texts])
    )
    with torch.inference_mode():
        logits_BTV = engine.network.model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits.float()
        lse_BT = logits_BTV.logsumexp(dim=2, keepdim=True)
        best = logits_BTV.topk(top_k, dim=2)
        _ = best.indices.cpu().numpy(), (best.values - lse_BT).cpu().numpy()
    return int(mask_BT.sum())


def throughput(model: Path, device: str, dtype: str, top_k: int, batch_bytes: int, count: int) -> dict[str, Any]:
    import torch

    from fusery.core.rules import Dtype
    from fusery.source.client import SourceClient
    from fusery.source.engines.transformers import load_engine
    from support.source.source_servers import running

    torch.set_num_threads(1 if device == "cpu" else torch.get_num_threads())
    engine = load_engine(str(model), dtype=Dtype(dtype), device=device)
    seconds: dict[str, list[float]] = {"service": [], "bare": []}
    tokens = 0
    with running(engine) as server, SourceClient(server.address, timeout_s=600) as client:
        for number, documents in enumerate(batches(batch_bytes, count + 1)):
            start = time.perf_counter()
            client.compute(documents, top_k)
            between = time.perf_counter()
            real = bare(engine, documents, top_k)
            end = time.perf_counter()
            if number:  # the first warms both up
                seconds["service"].append(between - start)
                seconds["bare"].append(end - between)
                tokens += real
    ratios = [b / s for b, s in zip(seconds["bare"], seconds["service"], strict=True)]
    return {
        "model": model.name,
        "device": device,
        "dtype": dtype,
        "vocabulary": engine.model.vocabulary_size,
        "top_k": top_k,
        "tokens_per_second": tokens / sum(seconds["service"]),
        "bare_tokens_per_second": tokens / sum(seconds["bare"]),
        "ratio": statistics.median(ratios),
    }


def wide_memory(chunked: bool) -> dict[str, float]:
    """Megabytes that answering 1024 tokens at a vocabulary of 262,144 takes, beyond the loaded model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from fusery.models.head import split
    from fusery.source.api import Document, ModelDescription
    from fusery.source.engines.transformers import TransformersEngine
    from support.models.pico_models import pico_byte_tokenizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=WIDE_VOCABULARY, **shape)).train(False)
    tokenizer = pico_byte_tokenizer("byte_level")
    description = ModelDescription(
        name="wide",
        revision=None,
        weights_fingerprint="0" * 64,
        tokenizer_fingerprint=tokenizer.fingerprint,
        architecture="LlamaForCausalLM",
        vocabulary_size=WIDE_VOCABULARY,
        context_length=2048,
        dtype="float32",
    )
    engine = TransformersEngine(description, tokenizer, split(network))
    text = "\n".join(topics[name] for name in sorted(topics))
    ends = tokenizer.tokenize(text[:8192]).byte_ends_T
    documents = [Document("wide", text.encode()[: int(ends[WIDE_ROWS - 1])].decode(errors="ignore"))]
    engine.compute([Document("warm", "a")], 10)
    return {"mb": peak_mb(lambda: engine.compute(documents, 10) if chunked else bare(engine, documents, 10))}


def wire_cost(top_k: int = 10, tokens: int = 2048) -> dict[str, float]:
    """Microseconds a token for packing and unpacking an answer, and bytes a token on the wire."""
    from fusery.core.topk import TopK
    from fusery.source import wire
    from fusery.source.api import Distributions, Document

    random = np.random.default_rng(0)
    log_probs = np.sort(-random.exponential(2.0, (tokens, top_k)) - 2.5, axis=1)[:, ::-1].astype(np.float32)
    top = TopK(random.integers(0, 49_152, (tokens, top_k)), np.ascontiguousarray(log_probs))
    ids, ends = random.integers(0, 49_152, tokens), np.arange(1, tokens + 1, dtype=np.int64)
    answer = Distributions("d", ids, ends, top, np.full(tokens, -1.0, np.float32))
    document = Document("d", "x" * tokens)
    sent = wire.write_answer(answer, document, "float16").SerializeToString()

    def both() -> None:
        message = type(wire.write_answer(answer, document, "float16")).FromString(sent)
        wire.read_answer(message, document, top_k, "float16")

    def median_us(function: Callable[[], None]) -> float:
        times = []
        for _ in range(60):
            start = time.process_time()
            function()
            times.append(time.process_time() - start)
        return 1e6 * statistics.median(times) / tokens

    return {"us_per_token": median_us(both), "bytes_per_token": len(sent) / tokens, "top_k": top_k}


def apart(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """`function` in a process of its own, so that one measure's memory is not another's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, nargs="+", default=[path for path in (TINY, SMOLLM2) if path.exists()])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--batch-bytes", type=int, default=8000)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--name", default="source", help="of the result file")
    given = parser.parse_args()
    if not given.model:
        raise SystemExit("no model: run `make demo` (and `make small-llms`) first, or name one with --model FOLDER")
    rows = []
    for model in given.model:
        row = throughput(model, given.device, given.dtype, given.top_k, given.batch_bytes, given.batches)
        rows.append(row)
        print(
            f"{row['model']:>10} V={row['vocabulary']:<7} {row['tokens_per_second']:>9,.0f} tokens/s by the service,"
            f" {row['bare_tokens_per_second']:>9,.0f} bare: ratio {row['ratio']:.3f}",
            flush=True,
        )
    chunked, dense = apart(wide_memory, True)["mb"], apart(wide_memory, False)["mb"]
    print(f"V = 262,144, 1024 tokens: {chunked:,.0f} MB in chunks, {dense:,.0f} MB dense: {dense / chunked:.1f}×")
    cost = wire_cost()
    print(
        f"wire, k = 10: {cost['us_per_token']:.2f} µs a token to pack and unpack, {cost['bytes_per_token']:.1f} bytes"
    )
    write_result(
        given.name,
        measure="capture through the service against a bare forward with top-k, the last model",
        value=round(rows[-1]["tokens_per_second"], 1),
        unit="tokens per second",
        baseline={"what": "bare forward and top-k", "value": round(rows[-1]["bare_tokens_per_second"], 1)},
        ratio=round(rows[-1]["ratio"], 4),
        goal="0.95 for SmolLM2-135M, 0.9 for a tiny model; wire at most 1 µs a token at k = 10",
        throughput=rows,
        memory_262144={"chunked_mb": chunked, "dense_mb": dense, "ratio": dense / chunked},
        wire=cost,
    )


if __name__ == "__main__":
    main()
