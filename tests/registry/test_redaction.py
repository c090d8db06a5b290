"""Passwords of URLs: found, hidden, and in nothing that is published of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry import register
from fusery.registry.model_card import model_card
from fusery.registry.record import FusionRecord
from fusery.registry.redaction import has_secret, published_yaml, without_secrets

Make = Callable[..., FusionRecord]
WORDS = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://mia:secret@mlflow:5000", "http://***@mlflow:5000"),
        ("https://token@mlflow/x", "https://***@mlflow/x"),
        ("redis://:secret@h/0", "redis://***@h/0"),
        ("rediss://user:p@ss@h:6379/0", "rediss://***@h:6379/0"),
        ("sentinel://:a@h:1;sentinel://:b@i:2", "sentinel://***@h:1;sentinel://***@i:2"),
        ("s3://b/f?AWS_SECRET=x&region=y", "s3://b/f?AWS_SECRET=***&region=y"),
        ("az://b/f?sv=1&sig=abc%3D&token=d", "az://b/f?sv=1&sig=***&token=***"),
    ],
)
def test_what_lets_somebody_in_is_hidden(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert has_secret(text)
    assert not has_secret(shown)


@pytest.mark.parametrize(
    "text",
    [
        "http://mlflow:5000/a@b",
        "redis://user@h:6379/0",
        "sqlite:////data/a@b.db",
        "dns:///source-a:50051",
        "hf:owner/name@main",
        "s3://bucket/folder?region=y",
        "mia:secret@mlflow",
        "owner/model",
    ],
)
def test_other_addresses_stay_as_they_are(text: str) -> None:
    assert without_secrets(text) == text
    assert not has_secret(text)


def test_a_yaml_keeps_its_comments_and_its_layout() -> None:
    text = "services:   # ours\n  # once http://mia:older@mlflow\n  tracking_uri: 'http://mia:secret@mlflow:5000'\n"
    expected = "services:   # ours\n  # once http://***@mlflow\n  tracking_uri: 'http://***@mlflow:5000'\n"
    assert published_yaml(text) == expected
    assert published_yaml("name: tiny\n") == "name: tiny\n"


@pytest.mark.parametrize(
    "spelled", ["http:\\/\\/mia:hidden@h", "http://mia:hidden\\x40h", "http://mia:hid\\\n    den@h"]
)
def test_escapes_of_yaml_hide_no_password(spelled: str) -> None:
    shown = published_yaml(f'services: {{tracking_uri: "{spelled}"}}\nname: tiny\n')
    assert yaml.safe_load(shown) == {"services": {"tracking_uri": "http://***@h"}, "name": "tiny"}


@given(WORDS, WORDS, st.sampled_from(['"', "'", ""]))
def test_whatever_the_password_is_it_is_not_published(user: str, word: str, quote: str) -> None:
    password = f"<{word}>"
    shown = published_yaml(f"services: {{broker_url: {quote}redis://{user}:{password}@host:6379/0{quote}}}\n")
    assert password not in shown
    assert yaml.safe_load(shown) == {"services": {"broker_url": "redis://***@host:6379/0"}}


class Files:
    """Keeps what is logged, as MLflow would."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    def log_artifacts(self, _: str, folder: str) -> None:
        self.content |= {path.name: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}

    def set_tag(self, *_: str) -> None:
        pass


def test_card_and_config_are_published_without_passwords(make_record: Make, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    record = make_record(tmp_path, folder)
    record.config_file.write_text("services: {tracking_uri: 'http://mia:secret@mlflow'}\n", encoding="utf-8")
    assert "http://***@mlflow" in model_card(record)
    client: Any = Files()
    register._log_files(client, "run", record)
    assert b"http://***@mlflow" in client.content["config.yaml"]
    assert [name for name, content in client.content.items() if b"secret" in content] == []
