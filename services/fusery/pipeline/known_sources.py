"""Why a source is asked again about text that was captured before.

A capture stands under its source's fingerprint, so a source that became another one is asked anew. That is right for
other weights, and a waste for a server that was started with flags that change no answer. The store keeps what every
source was when a run was planned; what changed is told before the sources are asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fusery.errors import Corrupt
from fusery.formats.store import Store
from fusery.run_sections import CaptureSpec
from fusery.source.api import ModelDescription
from fusery.worker.names import capture_name, captures_folder

_FOLDER = "sources"
_TOLD = ("architecture", "dtype", "vocabulary_size", "tokenizer_fingerprint")


@dataclass(frozen=True, slots=True)
class Asked:
    """A source of a run, by its name there, and what is asked of it about which text."""

    name: str
    model: ModelDescription
    corpus: str
    capture: CaptureSpec
    top_k: int

    @property
    def folder(self) -> str:
        return captures_folder(self.model.fingerprint, self.corpus)


def remember(store: Store, asked: Asked) -> None:
    """Keeps what the source is now."""
    told = {key: getattr(asked.model, key) for key in ("weights_fingerprint", *_TOLD)}
    store.write_note(f"{_FOLDER}/{asked.model.fingerprint[:16]}.json", {"name": asked.name, **told})


def why_asked_anew(store: Store, asked: Asked) -> str | None:
    """Why no capture of the text is used though there is one of a source of this name; None: there is none, or it is.

    E.g. "source big: its captures of this text are not used: it was vllm 0.32.0, now it is vllm 0.33.0; …".
    """
    names = [folder.rpartition("/")[2] for folder in store.folders(asked.folder)]
    wanted = capture_name(asked.capture, asked.top_k)
    if wanted in names:
        return None
    if names:
        return f"source {asked.name}: its captures of this text are not used: they are {', '.join(names)}, not {wanted}"
    return next((_changed(asked, other) for other in _others(store, asked)), None)


def _others(store: Store, asked: Asked) -> Iterator[dict[str, object]]:
    """What other sources of this name were that the text was captured of."""
    for name in store.list_notes(_FOLDER):
        fingerprint = name.rpartition("/")[2].removesuffix(".json")
        if fingerprint == asked.model.fingerprint[:16] or not store.folders(captures_folder(fingerprint, asked.corpus)):
            continue
        try:
            note = store.read_note(name)
        except Corrupt:
            continue
        if note is not None and note.get("name") == asked.name:
            yield note


def _changed(asked: Asked, before: dict[str, object]) -> str:
    now = asked.model
    pairs = [(key, before.get(key), getattr(now, key)) for key in _TOLD]
    changes = [f"{key} was {then}, is {value}" for key, then, value in pairs if then != value]
    told = f"source {asked.name}: its captures of this text are not used, it is another source now: "
    weights = before.get("weights_fingerprint")
    if not now.architecture.startswith(("vllm ", "tgi ")):
        return told + "; ".join(changes or ["its weights changed"])
    same = f"; if it answers as before, state it with same_as: {weights} (docs/engines.md)"
    told += "; ".join(changes or ["its server names another model, path or settings (vLLM: system_fingerprint)"])
    return told + (same if before.get("tokenizer_fingerprint") == now.tokenizer_fingerprint else "")
