"""A capture that is not used is told of with its reason."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from fusery.config.sections import CaptureSpec
from fusery.hops.names import capture_name
from fusery.hops.store.store import Store
from fusery.run.planning import Asked, remember, why_asked_anew
from fusery.source.api import ModelDescription

CORPUS = "c" * 64
MODEL = ModelDescription("m", None, "1" * 64, "2" * 64, "vllm 0.32.0", 99, 512, "unknown")


def asked(model: ModelDescription = MODEL, name: str = "big", **capture: Any) -> Asked:
    spec = CaptureSpec(**({"top_k": 4} | capture))
    return Asked(name, model, CORPUS, spec, spec.top_k)


def captured(store: Store, source: Asked) -> None:
    remember(store, source)
    store.publish(f"{source.folder}/{capture_name(source.capture, source.top_k)}/shard-00000.parquet", b"x")


def changed(**fields: Any) -> ModelDescription:
    return dataclasses.replace(MODEL, weights_fingerprint="3" * 64, **fields)


def test_what_is_used_and_what_is_new_is_not_told_of(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert why_asked_anew(store, asked()) is None
    captured(store, asked())
    assert why_asked_anew(store, asked()) is None
    assert why_asked_anew(store, asked(changed(), name="other")) is None, "another source of the run"
    assert why_asked_anew(store, dataclasses.replace(asked(changed()), corpus="d" * 64)) is None, "another text"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, f"names another model, path or settings .*system_fingerprint.*same_as: {MODEL.weights_fingerprint}"),
        ({"architecture": "vllm 0.33.0"}, "architecture was vllm 0.32.0, is vllm 0.33.0; if it answers as before"),
        ({"tokenizer_fingerprint": "4" * 64}, "tokenizer_fingerprint was 2222"),
        ({"vocabulary_size": 100}, "vocabulary_size was 99, is 100"),
    ],
)
def test_a_source_that_became_another_is_told_of(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    store = Store(str(tmp_path))
    captured(store, asked())
    why = why_asked_anew(store, asked(changed(**fields)))
    assert why is not None
    assert re.search(says, why), why
    assert ("same_as" in why) is ("tokenizer_fingerprint" not in fields)


def test_a_model_that_is_loaded_here_is_what_its_weights_are(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    llama = dataclasses.replace(MODEL, architecture="LlamaForCausalLM", dtype="float32")
    captured(store, asked(llama))
    other = dataclasses.replace(llama, weights_fingerprint="3" * 64)
    assert (why_asked_anew(store, asked(other)) or "").endswith("it is another source now: its weights changed")
    halved = dataclasses.replace(other, dtype="bfloat16")
    assert (why_asked_anew(store, asked(halved)) or "").endswith("dtype was float32, is bfloat16")


@pytest.mark.parametrize("capture", [{"top_k": 5}, {"log_probs": "float32"}, {"batch_bytes": 999}])
def test_other_settings_of_the_capture_are_told_of(tmp_path: Path, capture: dict[str, Any]) -> None:
    store = Store(str(tmp_path))
    captured(store, asked())
    why = why_asked_anew(store, asked(**capture))
    assert why is not None
    assert f"they are k4-float16-b{CaptureSpec().batch_bytes}-v" in why


def test_a_damaged_note_counts_as_none(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    captured(store, asked())
    [note] = (tmp_path / "sources").iterdir()
    note.write_text("{")
    assert why_asked_anew(store, asked(changed())) is None
