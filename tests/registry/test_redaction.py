"""Passwords of URLs: found, hidden, and in nothing that is published of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
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
        (folder / name).write_text('{"model_type": "llama"}')
    record = make_record(tmp_path, folder)
    record.config_file.write_text("services: {tracking_uri: 'http://mia:secret@mlflow'}\n", encoding="utf-8")
    assert "http://***@mlflow" in model_card(record)
    client: Any = Files()
    register._log_files(client, "run", record)
    assert b"http://***@mlflow" in client.content["config.yaml"]
    assert [name for name, content in client.content.items() if b"secret" in content] == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://user:pa/ss@h/0", "redis://***@h/0"),
        ("redis://:12/34@h/0", "redis://***@h/0"),
        ("redis://:a?b#c@h/0", "redis://***@h/0"),
        ("rediss://user:p@s/s@h:6379/0", "rediss://***@h:6379/0"),
        ("amqp://u:p/w@h//vhost", "amqp://***@h//vhost"),
        ("http://user:pa/ss@h/x", "http://***@h/x"),
        ("https://user:p#w@h/x", "https://***@h/x"),
        ("HTTPS://u:p@h", "HTTPS://***@h"),
        ("postgresql+psycopg2://u:p@h/db", "postgresql+psycopg2://***@h/db"),
        ("http://h/x?auth=abc", "http://h/x?auth=***"),
        ("http://h/x?access=abc&a=1", "http://h/x?access=***&a=1"),
        ("http://h/x?a=1&pwd=b;c", "http://h/x?a=1&pwd=***"),
        ("http://h/x#access_token=abc", "http://h/x#access_token=***"),
        ("http://h/#/x?id_token=abc&state=1", "http://h/#/x?id_token=***&state=1"),
        ("http://h/x?accessToken=abc", "http://h/x?accessToken=***"),
        ("http://h/x?X-Amz-Signature=abc&X-Amz-Date=1", "http://h/x?X-Amz-Signature=***&X-Amz-Date=1"),
        ("http://h/x?pass%77ord=abc", "http://h/x?pass%77ord=***"),
        ("http://h/x?api_key=abc, and more", "http://h/x?api_key=***, and more"),
        ("(see http://h/x?token=abc).", "(see http://h/x?token=***)."),
        ("use hf_" + "aB3" * 11 + " here", "use *** here"),
        ("ghp_" + "a1" * 18, "***"),
        ("AKIAIOSFODNN7EXAMPLE", "***"),
        ("Authorization: Bearer abcdefgh.ijkl", "Authorization: Bearer ***"),
    ],
)
def test_secrets_in_odd_places_are_hidden(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert has_secret(text)
    assert without_secrets(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://[::1]:5000/a@b",
        "dns:///a:1,b:2",
        "http://h/x?region=y&design=1&authors=2&keyboard=3&passage=4#section",
        "s3://bucket/a=b/domain=c",
        "models/hf_checkpoint1",
        "hf:owner/name@main",
        "http://h:/a@b",
    ],
)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert without_secrets(text) == text


ODD = "/@:?#%+=!$*-_.~<>"
SECRET = st.text(st.characters(codec="ascii", categories=("L", "N"), include_characters=ODD), min_size=6)
KEYS = st.sampled_from(["auth", "pwd", "access_token", "sig", "api-key"])
SCHEMES = st.sampled_from(["redis", "rediss", "http", "https", "s3", "amqp", "postgresql", "tgi:http", "sentinel"])
PLACES = st.sampled_from(
    ["services: {{broker_url: {0}}}", "a:\n  - {0}\nb: 1", "# {0}\nb: 1", "{0}: x", "a: !!str {0}"]
)


@given(
    scheme=SCHEMES, user=WORDS, secret=SECRET, key=st.sampled_from(["auth", "pwd", "access_token", "sig", "api-key"])
)
def test_no_part_of_a_generated_password_is_left(scheme: str, user: str, secret: str, key: str) -> None:
    secret = f"Zq{secret}"
    plain = "".join(c for c in secret if c not in "&#")
    for url in (
        f"{scheme}://{user}:{secret}@host:1/0",
        f"{scheme}://host/x?a=1&{key}={plain}&b=2",
        f"{scheme}://h/#{key}={plain}",
    ):
        shown = without_secrets(f"before {url} after")
        assert "Zq" not in shown
        assert shown.startswith("before ")
        assert shown.endswith(" after")


@given(
    place=PLACES,
    quote=st.sampled_from(["", "'", '"']),
    user=WORDS,
    word=st.text(st.characters(codec="ascii", categories=("L", "N"), include_characters="/@:?%+!-_.~"), min_size=4),
)
def test_no_generated_yaml_is_published_with_its_password(place: str, quote: str, user: str, word: str) -> None:
    text = place.format(f"{quote}redis://{user}:Zq{word}@host:6379/0{quote}") + "\n"
    try:
        yaml.safe_load(text)
    except yaml.YAMLError:
        assume(False)
    shown = published_yaml(text)
    assert "Zq" not in shown
    assert "redis://***@host:6379/0" in shown
    assert type(yaml.safe_load(shown)) is type(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("a: 1  # hf_abcd1234\n", "abcd"),
        ("# HF_TOKEN=abcd1234\na: 1\n", "abcd"),
        ("# password: abcd1234\na: 1\n", "abcd"),
        ("a: |\n  redis://u:abcd@h/0\n  more\nb: 1  # kept\n", "abcd"),
        ("a: &x http://u:abcd@h\nb: *x\n", "abcd"),
        ("a: >-\n  http://u:ab\n  http://u:abcd@h\n", "abcd"),
        ('a: "http://u:ab\\u0063d@h"\n', "cd@"),
        ("a: {token: 'hf_" + "abcd" * 8 + "'}\n", "abcd"),
    ],
)
def test_comments_blocks_anchors_and_escapes_hide_nothing(text: str, gone: str) -> None:
    shown = published_yaml(text)
    assert gone not in shown
    assert "abcd" not in str(yaml.safe_load(shown))
    assert yaml.safe_load(shown).keys() == yaml.safe_load(text).keys()
