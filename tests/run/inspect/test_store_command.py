from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from fusery import cli
from fusery.config.sections import AlignmentSpec, CaptureSpec, FusionSpec
from fusery.hops import tables
from fusery.hops.capture import capture
from fusery.hops.fuse import HOPS
from fusery.hops.names import coordinator_name, plan_name, tokenizer_name
from fusery.hops.plan import Hop, Plan, PlannedSource, ShardTask
from fusery.hops.store import shards
from fusery.hops.store.shards import CorpusDocument
from fusery.hops.store.store import Store
from fusery.run import planning
from fusery.run.inspect import store_command
from fusery.run.inspect.store import Holding, captured_top_k, holdings, remove, usage, verify
from fusery.run.inspect.store_command import Removal
from fusery.runtime.errors import ConfigError, InvalidInput
from support.models.pico_models import TEXTS, pico_byte_tokenizer
from support.source.fake_source import FakeSource

DOCUMENTS = [CorpusDocument(f"d{i}", "x", text) for i, text in enumerate(TEXTS)]


def plan_of(run_id: str, top_k: int = 4, **sections: object) -> Plan:
    tokenizer = pico_byte_tokenizer("unigram")
    source = PlannedSource(
        name="code",
        model_fingerprint="ab12" * 16,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocabulary_size=tokenizer.size,
    )
    return Plan(
        run_id=run_id,
        corpus_digest="c" * 64,
        corpus_shards=2,
        target_tokenizer_fingerprint=pico_byte_tokenizer("byte_level").fingerprint,
        sources=(source,),
        capture=CaptureSpec(top_k=top_k),
        alignment=AlignmentSpec(),
        fusion=FusionSpec(**sections),  # type: ignore[arg-type]
    )


def carry_out(store: Store, plan: Plan, *, completes: bool) -> FakeSource:
    """Makes everything that the plan names and the store has not; the source that was asked."""
    for shard, rows in enumerate((DOCUMENTS[:4], DOCUMENTS[4:])):
        store.publish(plan.corpus_shard(shard), shards.write_corpus(rows, {}), {"documents": len(rows)})
    for kind in ("unigram", "byte_level"):
        tokenizer = pico_byte_tokenizer(kind)
        store.publish(tokenizer_name(tokenizer.fingerprint), tokenizer.definition().encode(), {"name": kind})
    store.write_note(plan_name(plan.run_id), plan.model_dump(mode="json"))
    tables._vocabulary_map.cache_clear()
    source = FakeSource("unigram")
    for task in plan.tasks:
        if store.find(plan.artefact(task)) is None:
            if task.hop is Hop.CAPTURE:
                capture(store, plan, task, source)  # type: ignore[arg-type]
            else:
                HOPS[task.hop](store, plan, task)
    if completes:
        store.write_note(f"runs/{plan.run_id}/complete.json", {"promised": "x"})
    return source


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def by_kind(store: Store) -> dict[str, list[Holding]]:
    found: dict[str, list[Holding]] = {}
    for holding in holdings(store, usage(store)):
        found.setdefault(holding.kind, []).append(holding)
    return found


def test_ls_says_what_every_holding_is_how_large_and_who_uses_it(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    carry_out(store, plan_of("one"), completes=True)
    carry_out(store, plan_of("two", rule="avg_ce"), completes=False)
    store.write_note(
        "readings/key.json",
        {
            "train": {"digest": "c" * 64, "documents": 1234, "bytes": 1},
            "held_out": {"digest": "d" * 64, "documents": 7, "bytes": 1},
        },
    )
    found = by_kind(store)
    assert {kind: len(of) for kind, of in found.items()} == {
        "corpora": 1, "captures": 1, "aligned": 1, "fused": 2, "tokenizers": 2, "maps": 1
    }  # fmt: skip
    [capture] = found["captures"]
    assert capture.about == "source code, k 4, float16"
    assert capture.runs == ("one", "two")
    assert capture.is_needed
    assert capture.bytes == sum(store.listed(capture.name).values())
    assert found["corpora"][0].about == "training text, 1,234 documents"
    assert {holding.about: holding.runs for holding in found["fused"]} == {
        "sources code, min_ce": ("one",),
        "sources code, avg_ce": ("two",),
    }
    assert cli.main(["store", "ls", store.url]) == 0
    shown = capsys.readouterr().out
    assert "captures/ab12ab12/cccccccc/k4-float16-b16384-v2" in shown
    assert "source code, k 4, float16; used by one, two" in shown
    assert cli.main(["store", "ls", store.url, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["bytes"] == sum(row["bytes"] for row in content["holdings"])
    assert content["complete_runs"] == ["one"]


def test_a_run_with_a_smaller_k_other_rules_or_another_target_starts_no_capture(store: Store) -> None:
    first = plan_of("one", top_k=8)
    assert carry_out(store, first, completes=True).requests
    smaller = plan_of("two", top_k=3, rule="avg_ce")
    assert captured_top_k(store, "ab12" * 16, "c" * 64, 2, smaller.capture, most=100) == 8
    sources = tuple(source.model_copy(update={"captured_top_k": 8}) for source in smaller.sources)
    target = pico_byte_tokenizer("unigram").fingerprint
    for plan in (
        smaller.model_copy(update={"sources": sources}),
        smaller.model_copy(update={"sources": sources, "target_tokenizer_fingerprint": target}),
        plan_of("three", top_k=8, temperature=0.5, rule="avg_ce"),
    ):
        assert carry_out(store, plan, completes=True).requests == []


def test_the_smallest_complete_capture_that_is_large_enough_is_taken(store: Store) -> None:
    for top_k in (4, 6, 9):
        carry_out(store, plan_of(f"k{top_k}", top_k=top_k), completes=True)

    def taken(k: int, most: int = 100, **settings: object) -> int | None:
        capture = CaptureSpec(top_k=k, **settings)  # type: ignore[arg-type]
        return captured_top_k(store, "ab12" * 16, "c" * 64, 2, capture, most)

    assert [taken(k) for k in (3, 4, 5, 6, 7, 9, 10)] == [4, 4, 6, 6, 9, 9, None]
    assert taken(7, most=8) is None
    assert taken(3, log_probs="float32") is None
    assert taken(3, batch_bytes=1000) is None
    plan = plan_of("k4", top_k=4)
    store.discard(plan.artefact(plan.tasks[1]))
    assert taken(3) == 6


def test_verify_reads_everything_and_names_what_is_damaged(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of("one")
    carry_out(store, plan, completes=True)
    whole = verify(store)
    assert (whole.artefacts, whole.notes, whole.damages) == (11, 2, ())
    assert whole.bytes == sum(holding.bytes for holding in holdings(store, usage(store)))
    hit = [plan.artefact(task) for task in (plan.tasks[0], plan.tasks[2])]
    for name in (hit[0], f"{hit[1]}.entry.json", plan_name("one")):
        path = store.local_path(name)
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    store.local_path(plan.corpus_shard(0) + ".half").write_bytes(b"half")
    found = {(damage.name, damage.kind) for damage in verify(store).damages}
    expected = {(hit[0], "artefact"), (hit[1], "artefact"), (plan_name("one"), "note")}
    assert found == expected | {(plan.corpus_shard(0) + ".half", "leftover")}
    assert cli.main(["store", "verify", store.url]) == 1
    assert "3 damaged, 1 left by killed writers" in capsys.readouterr().out
    assert cli.main(["store", "verify", store.url, "--remove"]) == 0
    assert cli.main(["store", "verify", store.url, "--json"]) == 0
    carry_out(store, plan, completes=True)
    assert verify(store) == whole


def test_verify_finds_what_has_a_checksum_and_is_something_else(store: Store) -> None:
    carry_out(store, plan_of("one"), completes=True)
    name = plan_of("one").artefact(plan_of("one").tasks[0])
    store.discard(name)
    store.publish(name, shards.write_corpus(DOCUMENTS, {}))
    other = tokenizer_name("0" * 64)
    store.publish(other, pico_byte_tokenizer("unigram").definition().encode())
    damages = verify(store).damages
    assert {damage.name for damage in damages} == {name, other}
    assert any("kind is 'corpus', expected 'captured'" in damage.reason for damage in damages)
    remove(store, damages)
    assert not verify(store).damages


def test_rm_takes_what_is_named_entry_first_and_the_folder_with_it(store: Store, tmp_path: Path) -> None:
    plan = plan_of("one")
    carry_out(store, plan, completes=True)
    assert cli.main(["store", "rm", "captures/ab12ab12", "--store", store.url, "--yes"]) == 0
    assert not (tmp_path / "store/captures/ab12ab12ab12ab12").exists()
    assert store.listed(plan.folder(Hop.ALIGN, "code"))
    assert cli.main(["store", "rm", "fused/*", "aligned/*", "--store", store.url, "--yes"]) == 0
    assert set(by_kind(store)) == {"corpora", "tokenizers", "maps"}


def test_rm_unused_takes_what_no_plan_names_and_nothing_else(store: Store) -> None:
    carry_out(store, plan_of("one"), completes=True)
    before = {holding.name for holding in holdings(store, usage(store))}
    carry_out(store, plan_of("two", top_k=6), completes=False)
    store.remove_note(plan_name("two"))
    assert cli.main(["store", "rm", "--unused", "--store", store.url, "--yes"]) == 0
    assert {holding.name for holding in holdings(store, usage(store))} == before


def test_rm_refuses_what_an_unfinished_run_uses_unless_forced(store: Store) -> None:
    carry_out(store, plan_of("one"), completes=False)
    used = usage(store)
    found = holdings(store, used)

    def chosen(*patterns: str, unused: bool = False, force: bool = False) -> list[Holding]:
        return store_command.choose(found, used, Removal(patterns, unused, force, confirmed=True))

    with pytest.raises(InvalidInput, match=r"run one uses it and is not complete; finish the run, or give --force"):
        chosen("captures/*")
    assert chosen("captures/*", force=True)
    assert chosen(unused=True) == []
    with pytest.raises(InvalidInput, match="holds nothing of that name"):
        chosen("captures/nothing")
    for act in (lambda: chosen(), lambda: chosen("captures/*", unused=True)):
        with pytest.raises(ConfigError, match="what is to go"):
            act()


def test_a_plan_that_cannot_be_read_stops_rm_and_is_said(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    carry_out(store, plan_of("one"), completes=True)
    store.local_path(plan_name("one")).write_text("{}")
    assert cli.main(["store", "ls", store.url]) == 0
    assert "the plan of run one can't be read" in capsys.readouterr().out
    assert cli.main(["store", "rm", "--unused", "--store", store.url, "--yes"]) == 2
    assert "the plan of run one can't be read" in capsys.readouterr().err


def test_rm_asks_and_without_a_terminal_wants_yes(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out(store, plan_of("one"), completes=True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert cli.main(["store", "rm", "fused/*", "--store", store.url]) == 2
    assert "give --yes" in capsys.readouterr().err
    assert by_kind(store)["fused"]


def test_held_out_text_of_a_run_is_used_and_quarantine_is_shown(store: Store) -> None:
    plan = plan_of("one")
    carry_out(store, plan, completes=True)
    content = shards.write_corpus(DOCUMENTS[:1], {})
    store.publish("corpora/dddddddddddddddd/shard-00000.parquet", content, {"documents": 1})
    sides = {"train": {"digest": "c" * 64, "documents": 8}, "held_out": {"digest": "d" * 64, "documents": 1}}
    store.write_note("readings/key.json", sides)
    store._place.write("quarantine/abc-shard-00000.parquet", b"other")
    found = {holding.name: holding for holding in holdings(store, usage(store))}
    assert found["corpora/dddddddddddddddd"].runs == ("one",)
    assert found["quarantine"].bytes == 5
    assert cli.main(["store", "rm", "--unused", "--store", store.url, "--yes"]) == 0
    assert cli.main(["store", "rm", "quarantine", "--store", store.url, "--yes"]) == 0
    assert "quarantine" not in by_kind(store)


def test_what_the_baselines_of_a_run_read_is_used_by_it(store: Store) -> None:
    one = plan_of("one")
    other = {**one.sources[0].model_dump(), "name": "prose", "model_fingerprint": "cd34" * 16}
    plan = Plan.model_validate(one.model_dump(mode="json") | {"sources": [one.sources[0].model_dump(), other]})
    store.write_note(plan_name("one"), plan.model_dump(mode="json"))
    sides = {"train": {"digest": "c" * 64, "documents": 8}, "held_out": {"digest": "d" * 64, "documents": 1}}
    store.write_note("readings/key.json", sides)
    held_out = plan.over_held_out("d" * 64, 1)
    names = [held_out.artefact(task) for task in held_out.tasks]
    names += [plan.of_source_alone(name).artefact(ShardTask(Hop.FUSE, "", 0)) for name in ("code", "prose")]
    for name in names:
        store.publish(name, b"x")
    assert cli.main(["store", "rm", "--unused", "--store", store.url, "--yes"]) == 0
    assert [name for name in names if store.find(name) is None] == []
    used = usage(store)
    with pytest.raises(InvalidInput, match="run one uses it and is not complete"):
        store_command.choose(holdings(store, used), used, Removal(("captures/*",), False, False, confirmed=True))


def test_nothing_is_removed_while_a_run_has_begun_and_has_no_plan(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.publish("corpora/dddddddddddddddd/shard-00000.parquet", b"text", {"documents": 1})
    store.write_note(coordinator_name("two"), {"launch": "l", "worker": "host:7", "beat": 1})
    assert cli.main(["store", "rm", "--unused", "--store", store.url, "--yes"]) == 2
    assert "run two has begun and has no plan yet" in capsys.readouterr().err
    assert cli.main(["store", "rm", "--unused", "--store", store.url, "--yes", "--force"]) == 0
    assert by_kind(store) == {}


def test_the_store_is_found_by_url_by_yaml_or_in_the_environment(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["store", "ls"]) == 2
    assert "set FUSERY_STORE" in capsys.readouterr().err
    assert cli.main(["store", "ls", str(tmp_path / "nothing")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert cli.main(["store", "ls", str(tmp_path / "nothing.yaml")]) == 2
    assert "nothing.yaml" in capsys.readouterr().err
    carry_out(store, plan_of("one"), completes=True)
    monkeypatch.setenv("FUSERY_STORE", store.url)
    assert cli.main(["store", "ls"]) == 0
    assert f"store {store.url}" in capsys.readouterr().out


def test_a_plan_takes_a_complete_capture_of_more_entries_up_to_the_servers_limit(store: Store) -> None:
    carry_out(store, plan_of("one", top_k=8), completes=True)
    tokenizer = pico_byte_tokenizer("unigram")

    def planned(most: int) -> Plan:
        model = SimpleNamespace(
            fingerprint="ab12" * 16,
            weights_fingerprint="w" * 64,
            tokenizer_fingerprint=tokenizer.fingerprint,
            architecture="A",
            dtype="float32",
            vocabulary_size=tokenizer.size,
            limits=SimpleNamespace(max_top_k=most),
        )
        client = SimpleNamespace(model=lambda: model, tokenizer=lambda: tokenizer)
        config = SimpleNamespace(
            sources=[SimpleNamespace(name="code")],
            capture=CaptureSpec(top_k=3),
            alignment=AlignmentSpec(),
            fusion=FusionSpec(),
        )
        corpora = SimpleNamespace(train=SimpleNamespace(digest="c" * 64, shards=2))
        asked = SimpleNamespace(run_id="r", config=config, store=store, corpora=corpora)
        services = SimpleNamespace(client=lambda *_: nullcontext(client))
        board = SimpleNamespace(say=lambda event, text, *_, **__: said.append((event, text)))
        return planning.plan_of(asked, tokenizer, services, board)  # type: ignore[arg-type]

    said: list[tuple[str, str]] = []

    assert planned(most=100).folder(Hop.CAPTURE, "code") == plan_of("one", top_k=8).folder(Hop.CAPTURE, "code")
    assert planned(most=5).folder(Hop.CAPTURE, "code") == plan_of("x", top_k=3).folder(Hop.CAPTURE, "code")
    aligned = {planned(most).folder(Hop.ALIGN, "code") for most in (100, 5)}
    assert len(aligned) == 1
    # Of at most 5 entries there is no capture that could be used, and that is said.
    assert {event for event, _ in said} == {"captures"}
    assert all("its captures of this text are not used: they are k8-" in text for _, text in said)
