"""What the engines of inference servers share: limits found by asking, rows in order, errors without spill."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.core.topk import TopK
from fusery.runtime.errors import (
    AddressError,
    ConfigError,
    FuseryError,
    InvalidInput,
    Mismatch,
    ModelError,
    Unavailable,
)
from fusery.runtime.retry import RetryPolicy
from fusery.source.api import Document
from fusery.source.engines import http_calls, remote
from fusery.source.engines.http_calls import HttpServer, error_of_status, excerpt
from support.models.pico_models import pico_byte_tokenizer, pico_tokenizer

DOCUMENT = Document("d", "ab")
entries = st.dictionaries(st.integers(0, 400), st.sampled_from([-0.7, -1.5, -2.0, -9.0]), min_size=4, max_size=12)


def row(found: dict[int, float], top_k: int) -> TopK:
    text = pico_byte_tokenizer("byte_level").tokenize("a")
    total = float(np.logaddexp.reduce(list(found.values())))
    kept = {index: value - max(total, 0.0) for index, value in found.items()}
    return remote.distributions(DOCUMENT, text, [kept.items()], [], top_k).top


@given(entries, st.integers(1, 4), st.randoms())
def test_entries_come_best_first_and_equal_ones_by_id_however_the_server_lists_them(
    found: dict[int, float], top_k: int, chance: np.random.Generator
) -> None:
    listed = list(found.items())
    chance.shuffle(listed)
    top = row(dict(listed), top_k)
    expected = sorted(found, key=lambda index: (-found[index], index))[:top_k]
    assert top.ids_RK[0].tolist() == expected


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ([(3, -0.5), (3, -1.5), (4, -2.0)], "twice"),
        ([(3, -0.5), (-1, -1.5)], "token id that is none"),
        ([(3, -0.5), (1 << 32, -1.5)], "token id that is none"),
        ([(3, -0.5), (10**30, -1.5)], "token id that is none"),
    ],
)
def test_a_token_twice_or_an_id_that_is_none_is_refused(listed: list[tuple[int, float]], says: str) -> None:
    text = pico_byte_tokenizer("byte_level").tokenize("a")
    with pytest.raises(ModelError, match=says):
        remote.distributions(DOCUMENT, text, [listed], [], 2)


def test_a_position_without_a_distribution_is_a_row_without_mass() -> None:
    text = pico_byte_tokenizer("byte_level").tokenize("a")
    answer = remote.distributions(DOCUMENT, text, [None], [], 3)
    assert answer.top.mass_R.tolist() == [0.0]
    assert answer.top.ids_RK.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({1: -1.0}, "the server gives 1 entries of 2 asked for"),
        ({1: float("nan"), 2: -1.0}, "as log-probabilities, expected at most 0"),
        ({1: 3.0, 2: -1.0}, "as log-probabilities, expected at most 0"),
        ({1: -0.1, 2: -0.1}, "the server gives no log-probabilities: row 0: probabilities add up to"),
    ],
)
def test_what_are_no_log_probabilities_is_refused(found: dict[int, float], says: str) -> None:
    text = pico_byte_tokenizer("byte_level").tokenize("a")
    with pytest.raises(ModelError, match=f"document 'd': .*{says}"):
        remote.distributions(DOCUMENT, text, [found.items()], [], 2)


@given(st.integers(1, 5000), st.integers(0, 6000))
def test_the_largest_accepted_number_is_found_with_few_questions(most: int, limit: int) -> None:
    asked: list[int] = []

    def ask(number: int) -> None:
        asked.append(number)
        if number > limit:
            raise InvalidInput("too many")

    assert remote.largest_accepted(ask, most) == min(limit, most)
    assert len(asked) <= 15
    assert all(1 <= number <= most for number in asked)


def test_only_a_refused_number_counts_as_one() -> None:
    for error in (ConfigError("token"), AddressError("other server"), Unavailable("gone")):

        def ask(_: int, error: FuseryError = error) -> None:
            raise error

        with pytest.raises(type(error)):
            remote.largest_accepted(ask, 8)


@given(st.text(max_size=2000) | st.recursive(st.text() | st.none() | st.integers(), st.lists).map(json.dumps))
def test_an_excerpt_of_any_body_is_short_printable_and_one_line(body: str) -> None:
    shown = excerpt(body)
    assert len(shown) <= 204
    assert shown.isprintable()


@pytest.mark.parametrize("body", [{"error": "why"}, {"error": {"message": "why", "code": 1}}, {"message": "why"}])
def test_the_error_text_of_either_servers_body_is_found(body: object) -> None:
    assert excerpt(json.dumps(body)) == ": why"
    assert excerpt("") == ""


@given(st.integers(300, 599))
def test_every_status_is_one_of_our_errors(status: int) -> None:
    error = error_of_status("tgi:http://h", status, "why")
    assert str(error).startswith(f"tgi:http://h: HTTP {status}: why")
    assert error.retryable == isinstance(error, Unavailable)
    assert error.retryable or status < 500


@contextmanager
def endless(sent: bytes) -> Iterator[str]:
    """The address of a server whose every answer goes on with `sent` until its client has gone."""

    def answer(reader: socket.socket) -> None:
        with reader, suppress(OSError):
            reader.recv(65_536)
            reader.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
            while True:
                reader.sendall(sent)

    def accept() -> None:
        with suppress(OSError):
            while True:
                answer(listener.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize(
    ("max_bytes", "timeout_s", "kind", "says"),
    [
        (1 << 20, 300.0, AddressError, "its answer to /info has more than the 1,048,576 bytes that one can have"),
        (1 << 62, 0.1, Unavailable, "no answer: the answer is not whole after 0.1 s"),
    ],
)
def test_an_answer_without_an_end_is_ended_by_its_size_and_by_time(
    max_bytes: int, timeout_s: float, kind: type[FuseryError], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(http_calls, "_POLICY", RetryPolicy(0, 0, attempts=1))
    with endless(b"x" * 4096) as url, pytest.raises(kind, match=says):
        HttpServer("tgi:here", url, timeout_s=timeout_s).post("/info", {}, max_bytes)


def folder(tmp_path: Path, config: str | None = None) -> remote.TokenizerFolder:
    pico_tokenizer("byte_level").save(str(tmp_path / "tokenizer.json"))
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    return remote.read_tokenizer_folder(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "more"),
    [
        (None, 0),
        ('{"vocab_size": 9}', 0),
        ('{"vocab_size": 5000}', 5000),
        ('{"text_config": {"vocab_size": 600}}', 600),
    ],
)
def test_the_width_is_the_configs_and_no_less_than_the_tokenizers(
    tmp_path: Path, config: str | None, more: int
) -> None:
    assert folder(tmp_path, config).vocabulary_size == max(more, pico_byte_tokenizer("byte_level").size)


def test_the_bos_habit_is_the_servers(tmp_path: Path) -> None:
    found = folder(tmp_path)
    plain = pico_byte_tokenizer("byte_level").tokenize(remote.PROBE).ids_T.tolist()
    assert remote.tokenizer_of(found, plain, "s").prefix_ids.tolist() == []
    assert remote.tokenizer_of(found, [7, 5, *plain], "s").prefix_ids.tolist() == [7, 5]
    for ids in ([*plain, 3], plain[1:], []):
        with pytest.raises(Mismatch, match="s: it reads a probe text as tokens"):
            remote.tokenizer_of(found, ids, "s")


@pytest.mark.parametrize(("name", "content"), [("tokenizer.json", "{}"), ("config.json", "{"), ("other", "")])
def test_a_folder_that_is_no_tokenizers_is_refused(tmp_path: Path, name: str, content: str) -> None:
    if name == "config.json":
        folder(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=str(tmp_path)):
        remote.read_tokenizer_folder(str(tmp_path))


def test_a_hub_id_that_can_not_be_had_is_named() -> None:
    with pytest.raises(ModelError, match="tokenizer owner/name: neither a folder here nor to be had from the Hub"):
        remote.read_tokenizer_folder("owner/name")
