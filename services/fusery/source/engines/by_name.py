"""Which engine answers: told by how a source is named.

`transformers:MODEL`, or MODEL alone, computes here; `tgi:URL` and `vllm:URL` ask an inference server, and the gRPC
server in front of it looks to workers like any other. Nothing here imports torch before a model is loaded.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from fusery.config.run import EngineKind, split_engine
from fusery.core.rules import Dtype
from fusery.models.checkpoint import check_checkpoint
from fusery.runtime.errors import AddressError, InvalidInput, ModelError
from fusery.runtime.settings import settings
from fusery.source.api import Engine, Limits
from fusery.source.token import read_token

_FINGERPRINT = re.compile("[0-9a-f]{64}")


def check_engine(
    model: str, revision: str | None = None, tokenizer: str | None = None, same_as: str | None = None
) -> None:
    """Returns if `model` names an engine and what it needs here is here. No network; takes milliseconds.

    Raises:
        ModelError: the checkpoint or the tokenizer's folder can't be used.
        InvalidInput: an address is none, or an option that this engine has no use for is given.
    """
    kind, place = split_engine(model)
    if kind is EngineKind.TRANSFORMERS:
        if tokenizer is not None:
            raise InvalidInput(f"model {model}: has its own tokenizer; `tokenizer` goes with tgi:URL and vllm:URL only")
        if same_as is not None:
            raise InvalidInput(
                f"model {model}: its weights tell what it is; same_as goes with tgi:URL and vllm:URL only"
            )
        check_checkpoint(place, revision)
        return
    check_url(model, place)
    if same_as is not None and not _FINGERPRINT.fullmatch(same_as):
        raise InvalidInput(f"{model}: same_as is {same_as!r}, expected the 64 hex digits of a weights' fingerprint")
    if revision is not None:
        raise InvalidInput(f"{model}: the server decides its model's revision; leave {revision!r} out")
    if tokenizer is not None and Path(tokenizer).is_dir() and not (Path(tokenizer) / "tokenizer.json").is_file():
        raise ModelError(f"tokenizer {tokenizer}: no tokenizer.json in it; give the served model's tokenizer")


def check_url(name: str, url: str) -> str:
    """`url` without a slash at its end.

    Raises:
        AddressError: not http(s)://host[:port][/path], or with a password or a query in it, which logs would show.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        valid = valid and url.isascii() and url.isprintable() and " " not in url
    except ValueError:
        valid = False
    if not valid:
        raise AddressError(f"{name}: not the address of a server; expected http(s)://host:port")
    if parts.username is not None or parts.query or parts.fragment:
        raise AddressError(
            f"{name.partition(':')[0]}:{parts.scheme}://{parts.hostname}…: user names, passwords and queries stand in "
            "no address; put a bearer token into the file that FUSERY_ENGINE_TOKEN_FILE names"
        )
    return url.rstrip("/")


def load_engine(
    model: str,
    revision: str | None = None,
    dtype: Dtype = Dtype.FLOAT32,
    *,
    tokenizer: str | None = None,
    attention: str | None = None,
    device: str | None = None,
    name: str | None = None,
    limits: Limits | None = None,
    same_as: str | None = None,
) -> Engine:
    """The engine that `model` names. `tokenizer`: a folder or Hub id, for servers; None: what the server names.

    `same_as`, for servers: the weights' fingerprint to go by, of a source that answers alike as its user says.
    `dtype`, `attention` and `device` are for a model that is computed here; a server has its own.

    Raises:
        ModelError, InvalidInput: it can't be used.
        Unavailable, AddressError, ConfigError: the server does not answer, is another one, or wants a token.
    """
    check_engine(model, revision, tokenizer, same_as)
    kind, place = split_engine(model)
    if kind is EngineKind.TRANSFORMERS:
        from fusery.source.engines import transformers

        return transformers.load_engine(
            place, revision, dtype, attention=attention, device=device, name=name, limits=limits
        )
    url, token = check_url(model, place), read_token(settings().engine_token_file, "FUSERY_ENGINE_TOKEN_FILE")
    if kind is EngineKind.TGI:
        from fusery.source.engines.tgi import open_tgi

        return open_tgi(url, tokenizer, token, name=name, limits=limits, same_as=same_as)
    from fusery.source.engines.vllm import open_vllm

    return open_vllm(url, tokenizer, token, name=name, limits=limits, same_as=same_as)
