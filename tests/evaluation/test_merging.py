"""Weight merging: a mean of weights among equals, and a reason for everybody else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusery.evaluation.merging import Member, merge, why_not
from fusery.models.loading import load_model
from support.models.pico_models import build_model, pico_model

torch.set_num_threads(1)


def member(folder: Path, name: str = "other", tokenizer: str = "t") -> Member:
    return Member(name, folder, tokenizer)


def test_the_merged_weights_are_the_mean_and_load_as_a_model(tmp_path: Path) -> None:
    folders = [pico_model("llama", seed=seed) for seed in (0, 1, 2)]
    merge([member(folder) for folder in folders], tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    each = [load_file(folder / "model.safetensors") for folder in folders]
    assert merged.keys() == each[0].keys()
    for name, tensor in merged.items():
        expected = torch.stack([weights[name] for weights in each]).double().mean(0)
        assert torch.allclose(tensor.double(), expected, atol=1e-7)
    load_model(str(tmp_path / "merged"))
    assert (tmp_path / "merged" / "tokenizer.json").exists()


def test_copies_of_one_checkpoint_merge_to_that_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    folder = pico_model("gpt_neox")
    merge([member(folder)] * 3, tmp_path / "merged")
    ours, theirs = (load_file(place / "model.safetensors") for place in (tmp_path / "merged", folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_finished_merge_is_left_as_it_is_and_a_broken_one_leaves_nothing(tmp_path: Path) -> None:
    folder = pico_model("llama")
    (tmp_path / "merged").mkdir()
    merge([member(folder), member(folder)], tmp_path / "merged")
    assert list((tmp_path / "merged").iterdir()) == []
    with pytest.raises(KeyError):
        merge([member(folder), member(pico_model("gpt_neox"))], tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_seeds_of_one_architecture_fit(tmp_path: Path) -> None:
    assert why_not(member(pico_model("llama")), member(pico_model("llama", seed=1))) is None


def test_everything_else_is_refused_with_the_first_difference(tmp_path: Path) -> None:
    first = member(pico_model("llama"), "the target")
    assert why_not(first, member(pico_model("gpt_neox"), "b")) == "b is 'gpt_neox', the target is 'llama'"
    deeper = build_model(tmp_path / "deeper", "llama", num_hidden_layers=3)
    assert why_not(first, member(deeper, "b")) == "b has num_hidden_layers 3 in its config, the target 2"
    assert why_not(first, member(pico_model("llama", seed=1), "b", "u")) == "b has another tokenizer than the target"
    cut = build_model(tmp_path / "cut", "llama")
    weights = load_file(cut / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"][:8].clone()
    save_file(weights, cut / "model.safetensors", {"format": "pt"})
    assert why_not(first, member(cut, "b")) == "b has model.norm.weight of shape [8], the target [32]"
