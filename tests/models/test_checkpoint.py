"""Checkpoints are judged before their weights are read, in words that say what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fusery.models.checkpoint import (
    NO_CONTEXT_LIMIT,
    check_checkpoint,
    context_length,
    is_folder,
    local_folder,
    weight_files,
)
from fusery.models.inspect import inspect_checkpoint
from fusery.runtime.errors import ModelError
from support.models.pico_models import ARCHITECTURES, CONTEXT_LENGTH, TEXTS, TOKENIZERS, pico_byte_tokenizer, pico_model


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A Llama checkpoint that a test may break."""
    return Path(shutil.copytree(pico_model("llama"), tmp_path / "model"))


def rewrite(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_pico_checkpoint_passes_both_looks(architecture: str) -> None:
    folder = pico_model(architecture)
    check_checkpoint(str(folder))
    checkpoint = inspect_checkpoint(str(folder))
    assert checkpoint.vocabulary_size == checkpoint.tokenizer.size + 7
    assert checkpoint.context_length == CONTEXT_LENGTH
    assert checkpoint.architecture.lower().startswith(architecture.replace("_", ""))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_saved_tokenizer_comes_back_with_the_same_behaviour(kind: str) -> None:
    tokenizer = inspect_checkpoint(str(pico_model("llama", kind))).tokenizer
    assert tokenizer.fingerprint == pico_byte_tokenizer(kind).fingerprint
    for text in TEXTS:
        ends = tokenizer.tokenize(text).byte_ends_T
        assert ends[-1] == len(text.encode())


def test_the_first_look_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from fusery.models.checkpoint import check_checkpoint; check_checkpoint(sys.argv[1]); "
        "print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(pico_model("llama"))], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_hub_id_is_left_to_the_hub_and_a_path_is_not() -> None:
    check_checkpoint("HuggingFaceTB/SmolLM2-135M", "main")
    check_checkpoint("gpt2")
    assert is_folder("./models/a")
    assert is_folder("/models/a")
    assert is_folder("~/a")
    assert not is_folder("owner/name")
    with pytest.raises(ModelError, match="no such folder"):
        check_checkpoint("./owner/name")
    with pytest.raises(ModelError, match="a folder has no revision 'main'"):
        check_checkpoint(str(pico_model("llama")), "main")
    with pytest.raises(ModelError, match="neither an existing folder nor a Hub id"):
        check_checkpoint("models/of mine/x")


def test_a_pickle_only_checkpoint_is_refused_with_its_files_and_the_conversion(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model.bin\).*save_pretrained"):
        check_checkpoint(str(copy))


def test_a_gguf_folder_is_refused_with_the_conversion(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "model-Q4.gguf")
    with pytest.raises(ModelError, match=r"only GGUF \(model-Q4.gguf\).*gguf_file"):
        check_checkpoint(str(copy))


def test_pickles_beside_safetensors_do_no_harm(copy: Path) -> None:
    (copy / "optimizer.pt").write_bytes(b"never opened")
    check_checkpoint(str(copy))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no config.json"),
        ("{", "can't be read as JSON"),
        ("[]", "no model_type"),
        ('{"vocab_size": 3}', "no model_type"),
    ],
)
def test_a_broken_config_is_named(copy: Path, content: str | None, message: str) -> None:
    if content is None:
        (copy / "config.json").unlink()
    else:
        (copy / "config.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        check_checkpoint(str(copy))


def test_a_checkpoint_without_a_tokenizer_is_refused(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer; expected one of tokenizer\.json"):
        check_checkpoint(str(copy))


@pytest.mark.parametrize("kept_bytes", [0, 5, 200, -1])
def test_a_broken_download_is_found_without_reading_the_weights(copy: Path, kept_bytes: int) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(ModelError, match="download it again"):
        check_checkpoint(str(copy))


def test_a_git_lfs_pointer_is_no_weights_file(copy: Path) -> None:
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(ModelError, match="Git LFS"):
        check_checkpoint(str(copy))


def test_an_index_must_find_all_its_files(copy: Path) -> None:
    names = {"a": "part-2.safetensors", "b": "part-1.safetensors", "c": "part-2.safetensors"}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    (copy / "model.safetensors").rename(copy / "part-1.safetensors")
    with pytest.raises(ModelError, match=r"part-2\.safetensors, missing"):
        weight_files(copy)
    shutil.copy(copy / "part-1.safetensors", copy / "part-2.safetensors")
    assert [path.name for path in weight_files(copy)] == ["part-1.safetensors", "part-2.safetensors"]
    (copy / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match="weight_map"):
        weight_files(copy)


def test_code_in_a_checkpoint_is_never_run(copy: Path) -> None:
    (copy / "own.py").write_text("raise SystemExit('this code was run')")

    def bring_code(config: dict[str, object]) -> None:
        config.update(model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})

    rewrite(copy / "config.json", bring_code)
    with pytest.raises(ModelError, match=r"no architecture 'own' \(it brings code of its own, which is never run\)"):
        inspect_checkpoint(str(copy))


def test_a_known_architecture_wins_over_code_in_the_checkpoint(copy: Path) -> None:
    (copy / "own.py").write_text("raise SystemExit('this code was run')")
    rewrite(copy / "config.json", lambda config: config.update(auto_map={"AutoModelForCausalLM": "own.Model"}))
    assert inspect_checkpoint(str(copy)).architecture == "LlamaForCausalLM"


def test_a_model_that_is_no_causal_language_model_is_refused(copy: Path) -> None:
    (copy / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ModelError, match="'vit' is no causal language model"):
        inspect_checkpoint(str(copy))


def test_a_config_that_transformers_refuses_is_an_error_of_the_model(copy: Path) -> None:
    rewrite(copy / "config.json", lambda config: config.update(hidden_size="wide"))
    with pytest.raises(ModelError, match="refuses its config"):
        inspect_checkpoint(str(copy))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub with the model owner/name: the folder that it gives; what is fetched from it lies beside."""
    import huggingface_hub

    folder = Path(shutil.copytree(pico_model("llama"), tmp_path / "hub"))

    def snapshot(model: str, allow_patterns: list[str], **_: object) -> str:
        assert model == "owner/name"
        for path in folder.iterdir():
            if any(path.match(pattern) for pattern in allow_patterns):
                (tmp_path / "cache").mkdir(exist_ok=True)
                shutil.copy(path, tmp_path / "cache" / path.name)
        return str(tmp_path / "cache")

    class Api:
        def list_repo_files(self, model: str, revision: str | None) -> list[str]:
            return [path.name for path in folder.iterdir()]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return folder


def test_looking_at_a_model_on_the_hub_fetches_no_weights(hub: Path, tmp_path: Path) -> None:
    checkpoint = inspect_checkpoint("owner/name")
    assert checkpoint.tokenizer.fingerprint == inspect_checkpoint(str(hub)).tokenizer.fingerprint
    assert not list((tmp_path / "cache").glob("*.safetensors"))
    assert list(local_folder("owner/name").glob("*.safetensors"))


def test_a_model_on_the_hub_without_safetensors_is_refused_before_anything_large_is_fetched(hub: Path) -> None:
    (hub / "model.safetensors").rename(hub / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"owner/name: no safetensors weights in it, only pickled .*pytorch_model.bin"):
        inspect_checkpoint("owner/name")


@pytest.mark.parametrize("kind", ["an adapter", "two sets of weights", "an index that leads outside"])
def test_what_would_change_a_model_on_the_hub_is_refused_before_anything_large_is_fetched(
    kind: str, hub: Path, tmp_path: Path
) -> None:
    if kind == "an adapter":
        (hub / "adapter_config.json").write_text("{}")
    else:
        place = "../a.safetensors" if "outside" in kind else "model-00001-of-00001.safetensors"
        index = {"metadata": {}, "weight_map": {"lm_head.weight": place}}
        (hub / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"adapter_config|two sets of weights|index\.json names"):
        inspect_checkpoint("owner/name")
    assert not list((tmp_path / "cache").glob("*.safetensors"))


def test_a_model_without_a_context_limit_gets_a_generous_one() -> None:
    class Endless:
        max_position_embeddings = None

    assert context_length(Endless()) == NO_CONTEXT_LIMIT
