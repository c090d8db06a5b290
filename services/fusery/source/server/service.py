"""The methods of distributions.proto, over an engine that lives in the model's thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np

from fusery.runtime.errors import Mismatch, Unavailable
from fusery.source import wire
from fusery.source.api import Distributions, Document, Engine, check_request
from fusery.source.packing import LogProbs
from fusery.source.pb import distributions_pb2 as pb
from fusery.source.pb import distributions_pb2_grpc as pb_grpc
from fusery.source.server.call_record import CallRecord, current
from fusery.source.server.model_thread import ModelThread
from fusery.source.server.probes import Probes

SERVICE: str = pb.DESCRIPTOR.services_by_name["DistributionsService"].full_name


class DistributionsService(pb_grpc.DistributionsServiceServicer):
    """Answers once `engine` is set, and while the probes say that it may."""

    def __init__(self, thread: ModelThread, probes: Probes) -> None:
        self._thread = thread
        self._probes = probes
        self._tokenizer: list[pb.GetTokenizerResponse] | None = None
        self.engine: Engine | None = None

    def admit(self, method: str) -> None:
        """Returns if a call of the method may go on.

        Raises:
            Unavailable: loading, draining, or the model hangs; Overloaded: the queue is full.
        """
        self._ready()
        if method == "ComputeDistributions":
            self._thread.check_room()

    def _ready(self) -> Engine:
        if self._probes.draining:
            raise Unavailable("this source server is draining; try again at its successor")
        if self.engine is None:
            raise Unavailable("the model is loading; try again")
        if self._probes.overdue:
            raise Unavailable("the model has been at one request for too long; try again when this server is back")
        return self.engine

    async def GetModel(self, _request: pb.GetModelRequest, _context: Any) -> pb.GetModelResponse:
        return wire.write_model(self._ready().model)

    async def GetTokenizer(
        self, _request: pb.GetTokenizerRequest, _context: Any
    ) -> AsyncIterator[pb.GetTokenizerResponse]:
        if self._tokenizer is None:
            self._tokenizer = await asyncio.to_thread(list, wire.write_tokenizer(self._ready().tokenizer))
        for message in self._tokenizer:
            yield message

    async def ComputeDistributions(
        self, request: pb.ComputeDistributionsRequest, _context: Any
    ) -> AsyncIterator[pb.ComputeDistributionsResponse]:
        engine, call = self._ready(), current.get()
        call.documents, call.top_k = len(request.documents), request.top_k
        expected = request.expected_fingerprint
        if expected and expected != engine.model.fingerprint:
            raise Mismatch(
                f"source fingerprint: {engine.model.name} here is {engine.model.fingerprint[:12]}…, "
                f"the request expects {expected[:12]}…; plan the run again for this source, or serve the expected one"
            )
        log_probs = wire.read_log_probs(request.log_probs)
        documents, top_k = wire.read_documents(request), request.top_k
        # Here too, so that what can never be answered does not wait in the queue.
        check_request(documents, top_k, engine.model)
        queued = time.perf_counter()
        for message in await self._thread.run(lambda: _answer(engine, documents, top_k, log_probs, call, queued)):
            yield message


def _answer(
    engine: Engine, documents: list[Document], top_k: int, log_probs: LogProbs, call: CallRecord, queued: float
) -> list[pb.ComputeDistributionsResponse]:
    began = time.perf_counter()
    call.wait_s = began - queued
    answers = engine.compute(documents, top_k)
    messages = [wire.write_answer(*of, log_probs) for of in zip(answers, documents, strict=True)]
    call.compute_s = time.perf_counter() - began
    _count(call, answers)
    return messages


def _count(call: CallRecord, answers: list[Distributions]) -> None:
    lengths = [len(answer.token_ids_T) for answer in answers]
    call.tokens, call.padded_tokens = sum(lengths), max(lengths) * len(lengths)
    masses = [float(np.exp(answer.top.log_probs_RK).sum(dtype=np.float64)) for answer in answers]
    call.captured_mass = sum(masses) / call.tokens
