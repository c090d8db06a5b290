"""`fusery conformance`: what it prints for people and for programs, and its exit code."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fusery import cli
from fusery.source.engines.transformers import load_engine
from support.models.pico_models import pico_model, pico_tokenizer
from support.source.source_servers import UniformEngine, running
from support.source.stand_ins import PicoModel
from support.source.tgi_stand_in import tgi
from support.source.vllm_stand_in import vllm

torch.set_num_threads(1)


@functools.cache
def pico() -> PicoModel:
    folder = pico_model("gpt2", "byte_level")
    return PicoModel(load_engine(str(folder), device="cpu"), folder)


@pytest.fixture
def texts(tmp_path: Path) -> str:
    file = tmp_path / "texts.jsonl"
    lines = ({"text": "The quick brown fox"}, {"text": "déjà vu: 東京"})
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n", encoding="utf-8")
    return str(file)


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = cli.main(["conformance", *arguments, "--json"])
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, report


def statuses(report: dict[str, Any], source: str) -> dict[str, str]:
    return {check["name"]: check["status"] for check in report["checks"][source]}


def test_a_folder_an_inference_server_and_a_source_server_are_compared(
    texts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = pico()
    folder = str(model.folder)
    with vllm(model) as server, running(model.engine) as front:
        for a, b in ((f"vllm:{server.url}", folder), (front.address, f"vllm:{server.url}")):
            code, report = asked(capsys, a, b, "--tokenizer", folder, "--texts", texts, "--tolerance", "0.001")
            assert set(statuses(report, "both").values()) == {"passed"}
            failed = [n for s in "ab" for n, status in statuses(report, s).items() if status == "failed"]
            assert set(failed) <= {"likelihood"}  # the model is untrained
            assert code == (1 if failed else 0)
            assert report["passed"] is not failed
            assert (report["top_k"], report["tolerance"]) == (20, 0.001)
            assert report["sources"]["a"]["given"] == a


def test_a_servers_own_limit_is_kept_to(texts: str, capsys: pytest.CaptureFixture[str]) -> None:
    with tgi(pico(), max_top_n_tokens=5) as server:
        _, report = asked(capsys, f"tgi:{server.url}", "--tokenizer", str(pico().folder), "--texts", texts)
    assert (report["top_k"], report["top_k_asked_for"]) == (5, 20)
    assert report["sources"]["a"]["engine"] == "tgi 3.3.6-dev0"


def test_people_are_told_that_fewer_entries_were_used_than_asked_for(
    texts: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    with vllm(pico(), max_logprobs=64) as server:
        source = [f"vllm:{server.url}", "--tokenizer", str(pico().folder), "--texts", texts]
        cli.main(["conformance", *source, "--top-k", "65"])
        assert (
            capsys.readouterr().out.splitlines()[-1].count(": 64 entries (65 were asked for; no more are given)") == 1
        )
        cli.main(["conformance", *source, "--top-k", "64"])
        assert ": 64 entries, tolerance" in capsys.readouterr().out.splitlines()[-1]


def test_a_report_is_readable_and_the_exit_code_is_its_verdict(
    texts: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    with running(UniformEngine()) as good:
        assert cli.main(["conformance", good.address, "--texts", texts]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert (
            lines[0]
            == f"a: {good.address} (UniformForCausalLM, float32, {UniformEngine().model.vocabulary_size} logits)"
        )
        assert lines[-1] == "conforms: 20 entries, tolerance 0.001 nats"
        assert [line for line in lines if "tokens" in line and "passed" in line]
        with vllm(pico()) as other:
            given = [good.address, f"vllm:{other.url}", "--tokenizer", str(pico().folder), "--texts", texts]
            assert cli.main(["conformance", *given]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("does not conform: 20 entries")
    assert [line for line in lines if "failed" in line]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a", "b", "c"], "3 sources given; expected one, or two to compare"),
        (["models/nowhere/at/all"], "neither an existing folder nor a Hub id"),
        (["tgi:localhost:80"], "expected http(s)://host:port"),
        (["somewhere", "--texts", "/nowhere.jsonl"], "/nowhere.jsonl"),
        (["localhost:99999"], "SOURCE localhost:99999: address 'localhost:99999': the port is 99999, expected 1 to"),
        ([str(Path(__file__))], "can't be read as JSON"),
        (["somewhere", "--top-k", "0"], None),
    ],
)
def test_what_can_not_be_asked_is_one_line_and_exit_code_2(
    arguments: list[str], says: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if says is None:
        with pytest.raises(SystemExit):
            cli.main(["conformance", *arguments])
        return
    assert cli.main(["conformance", *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("fusery conformance: ")
    assert says in line


def test_a_tokenizers_file_is_no_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pico_tokenizer("byte_level").save(str(tmp_path / "tokenizer.json"))
    assert cli.main(["conformance", str(tmp_path / "tokenizer.json")]) == 2
    assert "a tokenizer's file gives no distributions; name a model or a server" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "no JSON\n", '{"no": "text"}\n', "[]\n", '{"text": ""}\n'])
def test_texts_that_can_not_be_read_are_named(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text(content)
    with running(UniformEngine()) as server:
        assert cli.main(["conformance", server.address, "--texts", str(file)]) == 2
    assert str(file) in capsys.readouterr().err
