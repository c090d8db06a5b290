"""A source server as a process: the real gRPC server round a numpy model that starts in a second and takes orders.

    python tests/support/faults/fault_source.py NAME TOKENIZER.json ORDERS.json READY_FILE PORT

Orders are a file that is read at every request: how long to compute, which document to fail at, and one fault for
the stream, once: a signal to itself, or a flipped bit, at a message that is not the first of its answer.
"""

from __future__ import annotations

import json
import os
import sys
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusery.core.tokens import ByteTokenizer
from fusery.core.topk import TopK
from fusery.source.api import Distributions, Document, ModelDescription, check_request, check_tokens
from fusery.source.pb import distributions_pb2 as pb
from fusery.source.server import serve as server
from fusery.source.server import server as gate
from fusery.source.server.service import DistributionsService

_ARRAYS = ("token_ids", "byte_ends", "top_ids", "top_log_probs", "next_log_probs")


@dataclass(frozen=True, slots=True)
class Orders:
    """What a source is told. `number` names the fault for the stream: each is carried out once, by one process.

    `pause_s` a request; a request with the document `poison` takes `poison_pause_s` more and then fails, if it is
    told to. `signal` (0: none) or `flip_bit` (-1: none) at the `message`-th message from now.
    """

    pause_s: float = 0.03
    poison: str = ""
    poison_pause_s: float = 0.0
    poison_fails: bool = False
    number: int = 0
    message: int = 1
    signal: int = 0
    flip_bit: int = -1


class Ear:
    """Reads orders, and writes beside them that a fault was carried out, before it is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = -1
        self._left = 0

    def orders(self) -> Orders:
        return Orders(**json.loads(self._path.read_text()))

    def tell_poison(self) -> None:
        """One more line for one more request with the document that is poison."""
        with self._path.with_suffix(".poison").open("a") as file:
            file.write("met\n")

    def reply(self, message: Any, place: int) -> Any:
        """The message to send, number `place` of its answer."""
        orders = self.orders()
        done = self._path.with_suffix(f".{orders.number}.done")
        if orders.number == 0 or done.exists():
            return message
        if orders.number != self._seen:
            self._seen, self._left = orders.number, orders.message
        self._left -= 1
        if self._left > 0 or place == 0:
            return message
        done.write_text(f"{message.document_id} {place}")
        if orders.signal:
            os.kill(os.getpid(), orders.signal)
            return message
        return flipped(message, orders.flip_bit)


def flipped(message: Any, bit: int) -> Any:
    """A copy with one bit of its arrays flipped, after their CRC was computed."""
    copy = pb.ComputeDistributionsResponse()
    copy.CopyFrom(message)
    arrays = [name for name in _ARRAYS if getattr(copy, name)]
    name = arrays[bit % len(arrays)]
    content = bytearray(getattr(copy, name))
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    setattr(copy, name, bytes(content))
    return copy


class SeededEngine:
    """Its distributions are a function of its name and of the whole batch, to the last bit, as a real model's are."""

    def __init__(self, name: str, tokenizer: ByteTokenizer, ear: Ear) -> None:
        self.tokenizer = tokenizer
        self.model = ModelDescription(
            name=name,
            revision=None,
            weights_fingerprint=f"{zlib.crc32(name.encode()):08x}" * 8,
            tokenizer_fingerprint=tokenizer.fingerprint,
            architecture="SeededForCausalLM",
            vocabulary_size=tokenizer.size,
            context_length=1024,
            dtype="float32",
            prefix_ids=tuple(tokenizer.tokenize("").ids_T.tolist()),
        )
        self._ear = ear

    def compute(self, documents: Sequence[Document], top_k: int) -> list[Distributions]:
        check_request(documents, top_k, self.model)
        self._obey(documents)
        texts = self.tokenizer.tokenize_batch([document.text for document in documents])
        check_tokens(documents, [len(text.ids_T) for text in texts], top_k, self.model)
        batch = "\0".join([self.model.name, *(document.text for document in documents)])
        chance = np.random.default_rng(zlib.crc32(batch.encode()))
        answers = []
        for document, text in zip(documents, texts, strict=True):
            rows = len(text.ids_T)
            following_T = np.append(text.ids_T[1:], 0)
            ids_TK = (following_T[:, None] + np.arange(top_k) * 3) % self.tokenizer.size
            raw_TK = -np.sort(-chance.random((rows, top_k)), axis=1) + 0.01
            log_probs_TK = np.log(0.9 * raw_TK / raw_TK.sum(axis=1, keepdims=True)).astype(np.float32)
            next_T = log_probs_TK[:, 0].copy()
            next_T[-1] = 0
            answers.append(Distributions(document.id, text.ids_T, text.byte_ends_T, TopK(ids_TK, log_probs_TK), next_T))
        return answers

    def _obey(self, documents: Sequence[Document]) -> None:
        orders = self._ear.orders()
        time.sleep(orders.pause_s)
        if orders.poison in [document.id for document in documents]:
            self._ear.tell_poison()
            time.sleep(orders.poison_pause_s)
            if orders.poison_fails:
                raise RuntimeError("the model can't compute this batch")


class _ObedientService(DistributionsService):
    """The real service; what it sends passes by the ear."""

    ear: Ear

    async def ComputeDistributions(self, request: Any, context: Any) -> AsyncIterator[Any]:
        place = 0
        async for message in super().ComputeDistributions(request, context):
            yield self.ear.reply(message, place)
            place += 1


def main(name: str, tokenizer_file: str, orders_file: str, ready_file: str, port: str) -> int:
    ear = Ear(Path(orders_file))
    tokenizer = ByteTokenizer.from_definition(Path(tokenizer_file).read_text(encoding="utf-8"))
    _ObedientService.ear = ear
    patched: Any = server
    around: Any = gate
    around.DistributionsService = _ObedientService
    patched.check_engine = lambda *_: None
    patched._load = lambda _: SeededEngine(name, tokenizer, ear)
    return server.serve(server.ServeConfig(name, port=int(port), ready_file=Path(ready_file), drain_s=5))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
