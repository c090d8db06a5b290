"""A stand-in for a text-generation-inference server, after the OpenAPI document and the router of TGI 3.3.6.

with tgi(model) as server:      # server.url; server.requests: (path, body) of everything asked so far
    ...
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jsonschema
import numpy as np

from support.source.stand_ins import Answer, PicoModel, Route, StandIn, nullable, serving

_TGI_PARAMETERS = {
    "adapter_id": nullable("string"),
    "best_of": nullable("integer", exclusiveMinimum=0),
    "decoder_input_details": {"type": "boolean"},
    "details": {"type": "boolean"},
    "do_sample": {"type": "boolean"},
    "frequency_penalty": nullable("number", exclusiveMinimum=-2),
    "grammar": {"type": ["object", "null"]},
    "max_new_tokens": nullable("integer", minimum=0),
    "repetition_penalty": nullable("number", exclusiveMinimum=0),
    "return_full_text": nullable("boolean"),
    "seed": nullable("integer", exclusiveMinimum=0),
    "stop": {"type": "array", "items": {"type": "string"}, "maxItems": 4},
    "temperature": nullable("number", exclusiveMinimum=0),
    "top_k": nullable("integer", exclusiveMinimum=0),
    "top_n_tokens": nullable("integer", exclusiveMinimum=0),
    "top_p": nullable("number", exclusiveMinimum=0, maximum=1),
    "truncate": nullable("integer", minimum=0),
    "typical_p": nullable("number", exclusiveMinimum=0, maximum=1),
    "watermark": {"type": "boolean"},
}
TGI_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "additionalProperties": False,
    "properties": {
        "inputs": {"type": "string"},
        "parameters": {"type": "object", "additionalProperties": False, "properties": _TGI_PARAMETERS},
        "stream": {"type": "boolean"},
    },
}
_WARPERS = (
    "temperature",
    "repetition_penalty",
    "frequency_penalty",
    "top_k",
    "top_p",
    "typical_p",
    "watermark",
)


@contextmanager
def tgi(
    model: PicoModel,
    *,
    max_top_n_tokens: int = 5,
    max_input_tokens: int = 200,
    prefill: bool = True,
    token: str | None = None,
    shift: int = 0,
    **info: Any,
) -> Iterator[StandIn]:
    """A stand-in for a TGI server. `prefill` False: as without --enable-prefill-logprobs. `shift`: a defect."""

    def refuse(message: str) -> Answer:
        return 422, {"error": f"Input validation error: {message}", "error_type": "validation"}

    def generate(body: Any) -> Answer:
        try:
            jsonschema.validate(body, TGI_REQUEST)
        except jsonschema.ValidationError as error:
            return refuse(f"{error.json_path}: {error.message}")
        given = body.get("parameters", {})
        assert not [key for key in _WARPERS if given.get(key)], "these would change the log-probabilities"
        top_n, new = given.get("top_n_tokens") or 0, given.get("max_new_tokens", 1024)
        if top_n > max_top_n_tokens:
            return refuse(f"`top_n_tokens` must be >= 0 and <= {max_top_n_tokens}. Given: {top_n}")
        if not body["inputs"]:
            return refuse("`inputs` cannot be empty")
        assert new == 1, "the stand-in generates one token"
        ids = model.ids(body["inputs"])
        if len(ids) > max_input_tokens:
            return refuse(f"`inputs` must have less than {max_input_tokens} tokens. Given: {len(ids)}")
        rows = model.log_probs(ids)
        row = rows[len(ids) - 1 - shift]
        tokens = [_tgi_token(index, float(row[index])) for index in _with_ties(row, top_n)]
        chosen = _tgi_token(int(row.argmax()), float(row.max()))
        details: dict[str, Any] = {"finish_reason": "length", "generated_tokens": 1, "seed": None, "tokens": [chosen]}
        details["prefill"] = []
        if prefill and given.get("decoder_input_details"):
            values = [None, *(float(rows[i, ids[i + 1]]) for i in range(len(ids) - 1))]
            details["prefill"] = [{"id": i, "text": "", "logprob": v} for i, v in zip(ids, values, strict=True)]
        if top_n:
            details["top_tokens"] = [tokens]
        answer = {"generated_text": "", **({"details": details} if given.get("details") else {})}
        return 200, [answer]

    described = {**_info(max_input_tokens), **info}
    routes: dict[str, Route] = {
        "POST /": generate,
        "GET /info": lambda _: (200, described),
    }
    with serving(routes, token) as state:
        yield state


def _tgi_token(index: int, log_prob: float) -> dict[str, Any]:
    return {"id": index, "text": "", "logprob": log_prob, "special": False}


def _with_ties(row: np.ndarray[Any, Any], top_n: int) -> list[int]:
    """As TGI's batch_top_tokens: those equal to the n-th come too; equal ones in no order of ids."""
    if not top_n:
        return []
    nth = np.sort(row)[-min(top_n, len(row))]
    found = np.flatnonzero(row >= nth)[::-1]
    return [int(index) for index in found[np.argsort(-row[found], kind="stable")]]


def _info(max_input_tokens: int) -> dict[str, Any]:
    return {
        "model_id": "pico/served",
        "model_sha": "e985a63c",
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": 128,
        "max_best_of": 2,
        "max_stop_sequences": 4,
        "max_input_tokens": max_input_tokens,
        "max_total_tokens": max_input_tokens + 10,
        "validation_workers": 2,
        "max_client_batch_size": 4,
        "router": "text-generation-router",
        "version": "3.3.6-dev0",
        "sha": None,
        "docker_label": None,
    }
