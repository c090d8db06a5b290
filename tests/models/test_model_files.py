"""What is loaded is what is fingerprinted; whatever lies beside and would change the model is refused by its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from fusery.evaluation.merging import Member, merge
from fusery.models.checkpoint import check_checkpoint
from fusery.models.loading import load_model, weights_fingerprint
from fusery.models.model_files import model_files, read_config, weight_files
from fusery.registry.stored_model import write_top_files
from fusery.runtime.errors import ModelError
from support.models.pico_models import pico_model

Change = Callable[[Path], object]
_IDS = torch.arange(3, 20)[None]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(pico_model("llama"), tmp_path / "model"))


def add_adapter(folder: Path) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], base_model_name_or_path=str(folder), task_type="CAUSAL_LM")
    config.save_pretrained(folder)
    place = "base_model.model.model.layers.0.self_attn.q_proj"
    weights = {f"{place}.lora_A.weight": torch.ones(2, 32), f"{place}.lora_B.weight": torch.ones(32, 2)}
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})


def split_up(folder: Path, place: str = "{}") -> None:
    """The weights in two files with an index."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    files = {place.format(f"model-0000{i}-of-00002.safetensors"): names[i::2] for i in (0, 1)}
    for file, of_file in files.items():
        (folder / file).parent.mkdir(exist_ok=True)
        save_file({name: weights[name] for name in of_file}, folder / file, {"format": "pt"})
    write_index(folder, {name: file for file, of_file in files.items() for name in of_file})
    (folder / "model.safetensors").unlink()


def write_index(folder: Path, placed: dict[str, object]) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def other_weights(folder: Path, name: str) -> None:
    """Weights of another model under `name`."""
    weights = {key: value * 2 for key, value in load_file(folder / "model.safetensors").items()}
    (folder / name).parent.mkdir(exist_ok=True)
    save_file(weights, folder / name, {"format": "pt"})


def set_config(**fields: object) -> Change:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))

    return change


def two_sets(folder: Path) -> None:
    kept = (folder / "model.safetensors").read_bytes()
    split_up(folder)
    (folder / "model.safetensors").write_bytes(kept)


def linked_adapter(folder: Path) -> None:
    add_adapter(folder)
    (folder / "adapter_config.json").rename(folder.parent / "elsewhere.json")
    (folder / "adapter_config.json").symlink_to(folder.parent / "elsewhere.json")


def adapter_alone(folder: Path) -> None:
    add_adapter(folder)
    (folder / "config.json").unlink()


REFUSED: dict[str, tuple[Change, str]] = {
    "adapter": (add_adapter, r"adapter_config\.json.*merge"),
    "adapter by a link": (linked_adapter, r"adapter_config\.json"),
    "adapter without weights": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "adapter_config"),
    "adapter alone": (adapter_alone, r"no config\.json.*adapter_config"),
    "whole and split": (two_sets, r"two sets of weights, model\.safetensors and those of model\.safetensors\.index"),
    "named in the config": (set_config(transformers_weights="other.safetensors"), "transformers_weights"),
    "code as attention": (set_config(attn_implementation="somebody/attention"), "somebody/attention.*never run"),
    "code as a part's attention": (
        set_config(text_config={"attn_implementation": {"": "somebody/attention@main"}}),
        "somebody/attention",
    ),
    "other configs": (set_config(configuration_files=["config.4.0.0.json"]), "configuration_files"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_change_the_model_is_refused_by_name(kind: str, copy: Path) -> None:
    change, message = REFUSED[kind]
    other_weights(copy, "other.safetensors")
    change(copy)
    for reader in (check_checkpoint, load_model, weights_fingerprint):
        with pytest.raises(ModelError, match=message):
            reader(str(copy))
    with pytest.raises(ModelError, match=message):
        model_files(copy)


HARMLESS: dict[str, Change] = {
    "nothing": lambda _: None,
    "a variant": lambda folder: other_weights(folder, "model.fp16.safetensors"),
    "the weights of another format": lambda folder: other_weights(folder, "consolidated.safetensors"),
    "original": lambda folder: other_weights(folder, "original/model.safetensors"),
    "pickles": lambda folder: (folder / "pytorch_model.bin").write_bytes(b"\x80\x04."),
    "gguf": lambda folder: (folder / "model.gguf").write_bytes(b"GGUF"),
    "an adapter in a subfolder": lambda folder: shutil.copytree(folder, folder / "checkpoint-1"),
    "a chat template": lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
    "generation settings": lambda folder: (folder / "generation_config.json").write_text('{"temperature": 9.0}'),
    "another index": lambda folder: (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {}}'),
    "a usual attention in the config": set_config(attn_implementation="sdpa"),
    "the usual name in the config": set_config(transformers_weights="model.safetensors"),
    "an index of the one file": lambda folder: write_index(folder, {"lm_head.weight": "model.safetensors"}),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_changes_nothing_is_no_part_of_the_model(kind: str, copy: Path) -> None:
    before = load_model(str(copy))(_IDS).logits
    HARMLESS[kind](copy)
    assert torch.equal(load_model(str(copy))(_IDS).logits, before)
    assert weight_files(copy) == [copy / "model.safetensors"]
    if "config" not in kind:
        assert weights_fingerprint(str(copy)) == weights_fingerprint(str(pico_model("llama")))


@pytest.mark.parametrize("place", ["{}", "parts/{}"])
def test_split_weights_are_loaded_fingerprinted_and_merged_from_the_same_files(
    place: str, copy: Path, tmp_path: Path
) -> None:
    before = load_model(str(copy))(_IDS).logits
    split_up(copy, place)
    assert torch.equal(load_model(str(copy))(_IDS).logits, before)
    one = weights_fingerprint(str(copy))
    merge([Member("a", copy, ""), Member("b", copy, "")], tmp_path / "merged")
    assert torch.equal(load_model(str(tmp_path / "merged"))(_IDS).logits, before)
    second = weight_files(copy)[1]
    save_file({name: tensor * 2 for name, tensor in load_file(second).items()}, second, {"format": "pt"})
    assert weights_fingerprint(str(copy)) != one
    assert not torch.equal(load_model(str(copy))(_IDS).logits, before)


@pytest.mark.parametrize(
    "name",
    [
        "../other.safetensors", "/tmp/other.safetensors", "parts/../../other.safetensors", "..\\other.safetensors",
        "C:\\other.safetensors", "pytorch_model.bin", "", ".", "other.safetensors\0", 3, None, ["a.safetensors"],
    ],
)  # fmt: skip
def test_an_index_names_safetensors_files_of_its_own_folder_only(name: object, copy: Path) -> None:
    other_weights(copy, "../other.safetensors")
    (copy / "model.safetensors").unlink()
    write_index(copy, {"lm_head.weight": name})
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json (names|has no readable)"):
        check_checkpoint(str(copy))


def test_a_variant_alone_is_refused_with_what_to_do(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "model.fp16.safetensors")
    with pytest.raises(ModelError, match=r"only a variant \(model\.fp16\.safetensors\); rename"):
        check_checkpoint(str(copy))


def test_weights_that_links_lead_to_are_those_of_the_hubs_cache(copy: Path, tmp_path: Path) -> None:
    one = weights_fingerprint(str(copy))
    (copy / "model.safetensors").rename(tmp_path / "blob")
    (copy / "model.safetensors").symlink_to(tmp_path / "blob")
    assert weights_fingerprint(str(copy)) == one


def test_all_files_that_decide_what_a_model_does_are_told(copy: Path) -> None:
    (copy / "README.md").write_text("a card")
    assert [path.name for path in model_files(copy)] == [
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    ]


def test_a_registered_copy_keeps_the_weights_apart_and_loads(copy: Path, tmp_path: Path) -> None:
    top = tmp_path / "registered"
    top.mkdir()
    write_top_files(copy, top, "---\n---\ncard", "licence")
    shutil.copytree(copy, top / "model", dirs_exist_ok=True)
    assert weight_files(top) == [top / "model" / "model.safetensors"]
    assert weights_fingerprint(str(top)) == weights_fingerprint(str(copy))
    assert read_config(top) == read_config(copy)
