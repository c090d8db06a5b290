"""The examples of docs/client.md, run against a real server; and what a gRPC tool does, done by reflection."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from fusery.source.api import Document
from fusery.source.client import SourceClient
from fusery.source.engines.transformers import load_engine
from fusery.source.server.server import Front
from support.models.pico_models import pico_model
from support.source.front_servers import FrontServer, fronted

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/client.md").read_text(encoding="utf-8")
ADDRESS = "127.0.0.1:50051"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def server() -> Iterator[FrontServer]:
    engine = load_engine(str(pico_model("llama")), device="cpu")
    with fronted(engine, Front(reflection=True)) as server:
        yield server


def executed(code: str, place: dict[str, Any]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "docs/client.md", "exec"), place)
    return out.getvalue()


def test_the_examples_in_python_run_and_print_what_they_say(server: FrontServer) -> None:
    _, ask, many = blocks("python")
    assert ADDRESS in ask
    assert ADDRESS in many
    place: dict[str, Any] = {}
    printed = executed(ask.replace(ADDRESS, server.address), place).splitlines()
    assert printed[-1].startswith("llama-sentencepiece-0 bits: ")
    assert [int(line.split()[0]) for line in printed[:-1]] == place["answer"].byte_ends_T.tolist()
    printed = executed(many.replace(ADDRESS, server.address), place).splitlines()
    assert len(printed) == 10
    assert all(re.fullmatch(r"8 documents, \d+ tokens", line) for line in printed)


def reflected_call(address: str, method: str, request: str) -> list[str]:
    """What grpcurl does: the descriptors come from the server, JSON goes in, JSON comes out."""
    with grpc.insecure_channel(address) as channel:
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        service, _, name = method.partition("/")
        described = pool.FindServiceByName(service).FindMethodByName(name)
        sent, received = map(message_factory.GetMessageClass, (described.input_type, described.output_type))
        call = channel.unary_stream(f"/{method}", sent.SerializeToString, received.FromString)
        answers = call(json_format.Parse(request, sent()), timeout=60)
        return [json_format.MessageToJson(answer) for answer in answers]


def test_the_request_in_json_is_one_and_its_answer_decodes_as_shown(
    server: FrontServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [shell] = [block for block in blocks("sh") if "grpcurl" in block]
    method = re.search(r"^M=(.*)$", shell, re.MULTILINE)
    data = re.search(r"^D=(.*)$", shell, re.MULTILINE)
    assert method is not None
    assert data is not None
    request = data[1].replace("$TEXT", base64.b64encode(b"def main():").decode())
    [request] = shlex.split(request)
    [answer] = reflected_call(server.address, method[1], request)
    [shown] = blocks("json")
    assert list(json.loads(shown)) == list(json.loads(answer))
    (tmp_path / "answer.json").write_text(answer)
    monkeypatch.chdir(tmp_path)
    place: dict[str, Any] = {}
    executed(blocks("python")[0], place)
    with SourceClient(server.address) as client:
        [expected] = client.compute([Document("a", "def main():")], 4, "float32")
    np.testing.assert_array_equal(place["top_ids_TK"], expected.top.ids_RK)
    np.testing.assert_array_equal(place["top_log_probs_TK"], expected.top.log_probs_RK)
    np.testing.assert_array_equal(place["byte_ends_T"], expected.byte_ends_T)
    array = place["array"]
    np.testing.assert_array_equal(array("tokenIds", "<u4"), expected.token_ids_T)
    np.testing.assert_array_equal(array("nextLogProbs", "<f4"), expected.next_log_probs_T)


def test_half_precision_decodes_as_shown(server: FrontServer) -> None:
    request = {"documents": [{"id": "a", "text": base64.b64encode("né".encode()).decode()}], "topK": 3}
    method = "fusery.distributions.v1.DistributionsService/ComputeDistributions"
    [answer] = reflected_call(server.address, method, json.dumps({**request, "logProbs": "LOG_PROBS_FLOAT16"}))
    with SourceClient(server.address) as client:
        [expected] = client.compute([Document("a", "né")], 3, "float16")
    found = np.frombuffer(base64.b64decode(json.loads(answer)["topLogProbs"]), "<f2")
    np.testing.assert_array_equal(found.reshape(-1, 3).astype(np.float32), expected.top.log_probs_RK)


def test_the_shell_command_of_the_docs_gives_the_documented_keys(
    server: FrontServer, capsys: pytest.CaptureFixture[str]
) -> None:
    from fusery import cli

    assert cli.main(["query", server.address, "def main():", "--top-k", "5", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    table = TEXT[TEXT.index("`--json` prints") : TEXT.index("Wrong input ends")]
    documented = set(re.findall(r"`\.?(\w+)(?:\[\])?`", table)) - {"json", "xe6"}
    first = answer["rows"][0]
    assert documented == {*answer, *first, *first["candidates"][0]}
