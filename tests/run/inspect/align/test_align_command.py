"""`fusery align` as people call it: every form of a participant, every output, every mistake."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from fusery import cli
from fusery.source.engines.transformers import load_engine
from support.models.pico_models import TEXTS, pico_byte_tokenizer, pico_model, pico_tokenizer
from support.source.source_servers import UniformEngine, running
from support.source.stand_ins import PicoModel
from support.source.tgi_stand_in import tgi
from support.source.vllm_stand_in import vllm

TEXT = "The quick brown fox"


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> str:
    folder = tmp_path / "english"
    folder.mkdir()
    pico_tokenizer("sentencepiece").save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading weights fails the test."""

    def fail(*_: object, **__: object) -> None:
        pytest.fail("weights were read")

    monkeypatch.setattr("fusery.models.loading.AutoModelForCausalLM.from_pretrained", fail)


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert cli.main(["align", *arguments, "--json"]) == 0
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["align", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    [line] = [line for line in shown.err.splitlines() if line.startswith("fusery align: ")]
    return line


def test_a_model_folder_is_a_source_with_distributions_and_a_target_by_its_tokenizer_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    monkeypatch.setattr(
        "fusery.source.engines.transformers.load_model",
        lambda folder, *rest: loaded.append(folder) or load_model(folder, *rest),
    )
    from fusery.models.loading import load_model

    target, source = str(pico_model("llama")), str(pico_model("gpt2"))
    content = asked(capsys, TEXT, "--target", target, "--source", source)
    assert loaded == [source]
    assert content["target"]["tokens"][0]["shown"] == "‹s›"
    [shown] = content["sources"]
    assert shown["has_distributions"]
    assert shown["top_k"] == 64
    assert shown["summary"]["with_evidence"] == len(shown["matches"]) > 0
    assert {len(token["top"]) for token in shown["tokens"]} == {3}
    assert 0 < shown["summary"]["kept_mass"] <= 1


def test_a_running_server_is_a_source_and_a_target(capsys: pytest.CaptureFixture[str]) -> None:
    with running(UniformEngine()) as server:
        content = asked(capsys, TEXT, "--target", server.address, "--source", server.address, "--top", "2")
    [shown] = content["sources"]
    assert shown["name"] == "uniform"
    assert shown["summary"]["share"] == 1.0
    share = 1 / pico_byte_tokenizer("byte_level").size
    assert [guess["probability"] for guess in shown["tokens"][0]["top"]] == pytest.approx([share] * 2, abs=1e-6)


@pytest.mark.parametrize(("engine", "stand_in"), [("vllm", vllm), ("tgi", tgi)])
def test_an_inference_server_is_a_source_and_a_target(
    engine: str, stand_in: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model = PicoModel(load_engine(str(pico_model("gpt2")), device="cpu"), pico_model("gpt2"))
    folder = str(model.folder)
    with stand_in(model) as server:
        name = f"{engine}:{server.url}"
        content = asked(capsys, TEXT, "--target", name, "--source", name, "--source", folder, "--tokenizer", folder)
    served, loaded = content["sources"]
    assert (served["given"], served["has_distributions"]) == (name, True)
    assert [token["id"] for token in served["tokens"]] == [token["id"] for token in loaded["tokens"]]
    ours, theirs = (source["tokens"][-1]["top"][0]["probability"] for source in (served, loaded))
    assert ours == pytest.approx(theirs, abs=1e-3)


@pytest.mark.parametrize("name", ["vllm:http://127.0.0.1:1", "tgi:http://127.0.0.1:1", "vllm:localhost:80"])
def test_an_inference_server_that_can_not_be_asked_is_named(
    name: str, tokenizer_file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusery.runtime.retry.time.sleep", lambda _: None)
    line = refused(capsys, TEXT, "--target", tokenizer_file, "--source", name)
    assert name in line


def test_a_tokenizers_file_gives_tokens_and_the_bos_habit_and_no_distributions(
    tokenizer_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = asked(capsys, TEXT, "--target", tokenizer_file, "--source", tokenizer_file)
    [shown] = content["sources"]
    assert (content["target"]["name"], shown["name"]) == ("english", "english")
    assert not shown["has_distributions"]
    assert shown["tokens"][0]["id"] == 1
    assert content["target"]["tokenizer_fingerprint"] == pico_byte_tokenizer("sentencepiece").fingerprint
    assert "top" not in shown["tokens"][0]


def test_a_definition_that_fusery_wrote_is_a_tokenizers_file(
    tmp_path: Path, tokenizer_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "definition").write_text(pico_byte_tokenizer("sentencepiece").definition(), encoding="utf-8")
    content = asked(capsys, TEXT, "--target", str(tmp_path / "definition"), "--source", tokenizer_file)
    [shown] = content["sources"]
    assert content["target"]["tokenizer_fingerprint"] == shown["tokenizer_fingerprint"]


@pytest.mark.parametrize("positions", ["boundary", "dtw"])
def test_the_rules_are_those_that_are_asked_for(
    positions: str, tokenizer_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [TEXT, "--target", tokenizer_file, "--source", tokenizer_file]
    content = asked(capsys, *arguments, "--positions", positions, "--vocabulary", "exact")
    assert (content["positions"], content["vocabulary"]) == (positions, "exact")


def test_text_comes_from_a_file_or_from_standard_input_unchanged(
    tmp_path: Path, tokenizer_file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TEXTS[3]
    path = tmp_path / "text"
    path.write_bytes(text.encode())
    participants = ["--target", tokenizer_file, "--source", tokenizer_file]
    assert asked(capsys, "--file", str(path), *participants)["text"] == text
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert asked(capsys, *participants, "-")["text"] == text


def test_two_sources_of_one_name_are_told_apart(tokenizer_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = asked(capsys, TEXT, "--target", tokenizer_file, *["--source", tokenizer_file] * 2)
    assert [source["name"] for source in content["sources"]] == [f"english ({tokenizer_file})"] * 2


def test_a_page_is_written_and_the_summary_printed(
    tmp_path: Path, tokenizer_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "page.html"
    arguments = [TEXT, "--target", tokenizer_file, "--source", tokenizer_file, "--html", str(path)]
    assert cli.main(["align", *arguments]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("english: evidence at")
    assert last == f"page: {path}"
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_people_get_tokens_and_tables(tokenizer_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["align", TEXT, "--target", tokenizer_file, "--source", str(pico_model("gpt2"))]) == 0
    shown = capsys.readouterr().out
    assert "┃" in shown
    assert "target's next" in shown
    assert "\x1b[" not in shown


def test_a_text_without_evidence_is_no_error(tokenizer_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["align", "T", "--target", str(pico_model("gpt2")), "--source", tokenizer_file]) == 0
    assert "has evidence: " in capsys.readouterr().out


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([""], "the text is empty; give at least two tokens of text"),
        (["half \udce9"], "the text is not UTF-8"),
        ([], "got no text; give TEXT"),
        (["a", "--file", "b"], "got TEXT and --file; give TEXT"),
        (["--file", "./nowhere.txt"], "--file nowhere.txt: No such file or directory"),
        (["a", "--html", "./nowhere/page.html"], "--html nowhere/page.html: there is no folder"),
    ],
)
def test_a_wrong_text_is_told_at_once(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(pico_model("gpt2"))
    assert says in refused(capsys, *arguments, "--target", model, "--source", model)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("./nowhere", "model ./nowhere: no such folder"),
        (
            "nowhere/tokenizer.json",
            "nowhere/tokenizer.json: no such file; expected a model's folder or Hub id, host:port",
        ),
        ("a/b/c", "neither an existing folder nor a Hub id of the form name or owner/name; expected a model's folder"),
        ("nowhere/gone", "and there is no folder nowhere/gone"),
        ("localhost:99999", "the port is 99999, expected 1 to 65535"),
    ],
)
@pytest.mark.parametrize("option", ["--target", "--source"])
def test_a_participant_that_is_not_there_is_named_before_any_weights_are_read(
    option: str, given: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(pico_model("gpt2"))
    other = "--source" if option == "--target" else "--target"
    line = refused(capsys, TEXT, other, model, option, given)
    assert line.startswith(f"fusery align: {option} {given}: ")
    assert says in line


@pytest.mark.usefixtures("no_model")
def test_an_address_that_does_not_answer_is_named(closed: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, TEXT, "--target", str(pico_model("gpt2")), "--source", closed)
    assert f"--source {closed}: no source server answers" in line
    assert "start one with fusery serve-source" in line


@pytest.mark.usefixtures("no_model")
def test_a_tokenizer_that_does_not_spell_the_text_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = Tokenizer(models.WordLevel({"b": 0, "[UNK]": 1}, unk_token="[UNK]"))
    reader.normalizer = normalizers.Replace("a", "")
    reader.pre_tokenizer = pre_tokenizers.Whitespace()
    reader.save(str(tmp_path / "lossy.json"))
    model = str(pico_model("gpt2"))
    line = refused(capsys, "a b", "--target", model, "--source", model, "--source", str(tmp_path / "lossy.json"))
    assert f"--source {tmp_path / 'lossy.json'}: " in line
    assert "do not spell the text" in line


@pytest.mark.usefixtures("no_model")
def test_a_text_longer_than_a_sources_context_is_refused_and_a_targets_context_does_not_matter(
    tokenizer_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(pico_model("gpt2"))
    text = "Zq! " * 200
    line = refused(capsys, text, "--target", tokenizer_file, "--source", model)
    assert "tokens, the model's context holds 256; give a shorter text" in line
    assert asked(capsys, text, "--target", model, "--source", tokenizer_file)["sources"]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"backend": {}}'])
def test_a_file_that_is_no_tokenizer_is_named(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    line = refused(capsys, TEXT, "--target", str(path), "--source", str(path))
    assert line.startswith(f"fusery align: --target {path}: ")
    assert "can't be read as JSON" in line or "holds no tokenizer" in line


def test_a_folder_without_weights_says_how_to_see_its_tokens(
    tokenizer_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(Path(tokenizer_file).parent)
    line = refused(capsys, TEXT, "--target", folder, "--source", folder)
    assert line.endswith(f"for its tokens alone give {tokenizer_file}")


@pytest.mark.parametrize(
    ("option", "given", "says"),
    [
        ("--positions", "bondary", "no such mode: 'bondary'; did you mean 'boundary'? known: boundary, dtw"),
        ("--vocabulary", "Partition", "did you mean 'partition'? known: partition, min_ed, exact"),
        ("--top", "0", "expected a whole number of at least 1, got '0'"),
    ],
)
def test_an_unknown_mode_is_answered_with_the_nearest_known_one(
    option: str, given: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["align", TEXT, "--target", "t", "--source", "s", option, given])
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert f"argument {option}: " in shown
    assert says in shown


def test_an_old_name_of_a_mode_is_taken_with_a_warning(
    tokenizer_file: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    models = ["--target", tokenizer_file, "--source", tokenizer_file, "--json"]
    assert cli.main(["align", TEXT, *models, "--positions", "mined", "--vocabulary", "mined"]) == 0
    assert "mined is called dtw now; change it, the next version knows dtw only" in caplog.text
    old = capsys.readouterr().out
    assert cli.main(["align", TEXT, *models, "--positions", "dtw", "--vocabulary", "min_ed"]) == 0
    assert capsys.readouterr().out == old
