"""A stand-in for a vLLM server, after the protocol classes of vLLM 0.33.0.

with vllm(model) as server:      # server.url; server.requests: (path, body) of everything asked so far
    ...
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jsonschema
import numpy as np

from support.source.stand_ins import Answer, PicoModel, Route, StandIn, nullable, serving

_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_PROMPT = {"anyOf": [_IDS, {"type": "string"}]}
# Without what a real server chokes on: a seeded request ends CPU servers of vLLM 0.32.
VLLM_COMPLETION = {
    "type": "object",
    "required": ["prompt"],
    "additionalProperties": False,
    "properties": {
        "model": nullable("string"),
        "prompt": {
            "anyOf": [_IDS, {"type": "string"}, {"type": "array", "items": {"anyOf": [_IDS, {"type": "string"}]}}]
        },
        "echo": nullable("boolean"),
        "logprobs": nullable("integer", minimum=-1),
        "max_tokens": nullable("integer", minimum=0),
        "min_p": nullable("number", minimum=0, maximum=1),
        "n": {"type": "integer", "minimum": 1},
        "prompt_logprobs": nullable("integer", minimum=-1),
        "repetition_penalty": nullable("number", exclusiveMinimum=0),
        "stream": nullable("boolean"),
        "temperature": nullable("number", minimum=0),
        "top_k": nullable("integer", minimum=-1),
        "top_p": nullable("number", exclusiveMinimum=0, maximum=1),
        "add_special_tokens": {"type": "boolean"},
        "return_tokens_as_token_ids": nullable("boolean"),
        "return_token_ids": nullable("boolean"),
    },
}
VLLM_TOKENIZE = {
    "type": "object",
    "required": ["prompt"],
    "additionalProperties": False,
    "properties": {
        "model": nullable("string"),
        "prompt": {"type": "string"},
        "add_special_tokens": {"type": "boolean"},
        "return_token_strs": nullable("boolean"),
    },
}


@contextmanager
def vllm(
    model: PicoModel,
    *,
    max_logprobs: int = 20,
    max_model_len: int = 200,
    token: str | None = None,
    served_name: str = "pico-served",
    root: str | None = None,
    logits: bool = False,
    setup: str | None = "vllm-0.33.0-0badcafe",
) -> Iterator[StandIn]:
    """A stand-in for a vLLM server. `logits`: as with --logprobs-mode raw_logits, which an engine must find out."""
    width = model.engine.model.vocabulary_size

    def refuse(message: str, parameter: str | None = None, status: int = 400) -> Answer:
        return status, {"error": {"message": message, "type": "BadRequestError", "param": parameter, "code": status}}

    def checked(body: Any, schema: dict[str, Any]) -> Answer | None:
        try:
            jsonschema.validate(body, schema)
        except jsonschema.ValidationError as error:
            return refuse(f"{error.json_path}: {error.message}")
        if body.get("model") not in (None, served_name):
            return refuse(f"The model `{body['model']}` does not exist.", "model", 404)
        return None

    def tokenize(body: Any) -> Answer:
        ids = model.ids(body["prompt"], body.get("add_special_tokens", True))
        return checked(body, VLLM_TOKENIZE) or (200, {"count": len(ids), "max_model_len": max_model_len, "tokens": ids})

    def complete(body: Any) -> Answer:
        if (wrong := checked(body, VLLM_COMPLETION)) is not None:
            return wrong
        for key, what in (("prompt_logprobs", "prompt logprobs"), ("logprobs", "sample logprobs")):
            if (body.get(key) or 0) > max_logprobs:
                said = f"Requested {what} of {body[key]}, which is greater than max allowed: {max_logprobs}"
                return refuse(said, key)
        ids, new = body["prompt"], body.get("max_tokens", 16)
        assert new == 1, "the stand-in generates one token"
        assert body.get("temperature") == 1.0, "the model's own default may be another"
        if len(ids) + new > max_model_len:
            return refuse(f"This model's maximum context length is {max_model_len} tokens.", "input_tokens")
        if any(index >= width for index in ids):
            return refuse(f"Token id {max(ids)} is out of vocabulary")
        rows = model.log_probs(ids)
        if logits:
            rows = rows + 30
        choice = _choice(rows, body)
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1, "total_tokens": len(ids) + 1}
        fixed = {"id": "cmpl-1", "object": "text_completion", "created": 0, "model": served_name}
        return 200, {**fixed, "choices": [choice], "usage": usage, "system_fingerprint": state.setup}

    card = {"id": served_name, "object": "model", "root": root or served_name, "parent": None}
    routes: dict[str, Route] = {
        "GET /version": lambda _: (200, {"version": "0.33.0"}),
        "GET /v1/models": lambda _: (200, {"object": "list", "data": [{**card, "max_model_len": max_model_len}]}),
        "POST /tokenize": tokenize,
        "POST /v1/completions": complete,
    }
    with serving(routes, token) as state:
        state.setup = setup
        yield state


def _vllm_position(row: np.ndarray[Any, Any], own: int, count: int) -> dict[str, Any]:
    """The prompt's own token first, then the best ones; one entry where it is among them."""
    ranks = {own: int((row > row[own]).sum()) + 1}
    ranks |= {index: rank for rank, index in enumerate(_best(row, count), 1) if index != own}
    return {
        str(index): {"logprob": max(float(row[index]), -9999.0), "rank": rank, "decoded_token": ""}
        for index, rank in ranks.items()
    }


def _best(row: np.ndarray[Any, Any], count: int) -> list[int]:
    return [int(index) for index in np.argsort(-row, kind="stable")[:count]]


def _choice(rows: np.ndarray[Any, Any], body: dict[str, Any]) -> dict[str, Any]:
    """One completion of one token, which may be any."""
    ids, last = body["prompt"], rows[-1]
    sampled = int(np.argsort(-last)[len(last) // 2])
    best = [sampled, *_best(last, body["logprobs"])]
    positions = [_vllm_position(rows[i], ids[i + 1], body["prompt_logprobs"]) for i in range(len(ids) - 1)]
    return {
        "index": 0,
        "text": "",
        "finish_reason": "length",
        "stop_reason": None,
        "logprobs": {
            "text_offset": [0],
            "token_logprobs": [float(last[sampled])],
            "tokens": [f"token_id:{sampled}"],
            "top_logprobs": [{f"token_id:{i}": max(float(last[i]), -9999.0) for i in dict.fromkeys(best)}],
        },
        "prompt_logprobs": [None, *positions],
        "prompt_token_ids": ids if body.get("return_token_ids") else None,
        "token_ids": [sampled] if body.get("return_token_ids") else None,
    }
