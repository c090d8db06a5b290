"""What licences ask of a run, by the table; and what they leave to a person."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.licences import (
    LICENCES,
    LicensedModel,
    Terms,
    accepted_name,
    combined,
    conditions,
    licence_of_result,
    open_conditions,
)

IDS = st.sampled_from([*LICENCES, "some-licence", None])


def models(target: str | None, **sources: str | None) -> list[LicensedModel]:
    listed = {"target": target, **sources}
    return [LicensedModel(role, f"owner/{role}", licence, "README.md") for role, licence in listed.items()]


def asked(target: str | None, name: str = "tiny", **sources: str | None) -> list[str]:
    return [condition.model.role for condition in open_conditions(conditions(models(target, **sources), name), [])]


def test_free_licences_ask_nothing() -> None:
    assert conditions(models("apache-2.0", one="mit", other="bsd-3-clause"), "tiny") == []


@pytest.mark.parametrize("family", ["llama2", "llama3"])
def test_llama_2_and_3_may_improve_only_their_own_family(family: str) -> None:
    assert asked("apache-2.0", llama=family) == ["llama"]
    (condition,) = conditions(models("apache-2.0", llama=family), "Llama-3-tiny")
    assert "may not be used to improve any other large language model" in condition.says
    assert asked(family, name="Llama-3-tiny", llama=family, other="apache-2.0") == []


@pytest.mark.parametrize(("name", "expected"), [("tiny", ["llama"]), ("Llama-tiny", []), ("llama_tiny", [])])
def test_llama_3_1_wants_its_name_at_the_beginning(name: str, expected: list[str]) -> None:
    assert asked("apache-2.0", name, llama="llama3.1") == expected


def test_a_target_that_wants_its_name_asks_too() -> None:
    assert asked("llama3.2", "tiny") == ["target"]
    assert asked("llama3.2", "Llama-tiny") == []


def test_gemma_as_a_source_asks_and_as_the_target_of_free_sources_does_not() -> None:
    assert asked("apache-2.0", gemma="gemma") == ["gemma"]
    assert asked("gemma", other="apache-2.0") == []
    assert asked("gemma", gemma="gemma") == []


@pytest.mark.parametrize("licence", [None, "some-licence"])
def test_what_is_not_known_asks_whatever_its_role(licence: str | None) -> None:
    assert asked(licence, other="mit") == ["target"]
    assert asked("mit", other=licence) == ["other"]


@given(IDS, IDS, IDS)
def test_accepting_every_licence_leaves_nothing_open(target: str | None, one: str | None, other: str | None) -> None:
    found = conditions(models(target, one=one, other=other), "tiny")
    names = [target or "target", one or "source:one", other or "source:other"]
    assert open_conditions(found, names) == []


@given(IDS, IDS)
def test_whatever_a_source_is_called_accepting_another_ones_licence_does_not_accept_its_own(
    licence: str | None, name: str | None
) -> None:
    name = name or "unknown"
    listed = [*models("mit"), LicensedModel(name, "a", "llama2", ""), LicensedModel("other", "b", licence, "")]
    still_open = [c.model.role for c in open_conditions(conditions(listed, "tiny"), [licence or "unknown"])]
    assert (name in still_open) == (licence != "llama2")
    assert ("other" in still_open) == (licence is None)


@pytest.mark.parametrize("licence", [None, "unknown", "target", "source:one"])
def test_a_licence_that_nobody_knows_is_accepted_for_one_model_alone(licence: str | None) -> None:
    listed = models(licence, one=None, other=licence)
    found = conditions(listed, "tiny")
    assert [c.model.role for c in open_conditions(found, ["target"])] == ["one", "other"]
    assert [c.model.role for c in open_conditions(found, ["source:one"])] == ["target", "other"]
    assert [c.model.role for c in open_conditions(found, ["unknown"])] == ["target", "one", "other"]


@pytest.mark.parametrize(
    ("given_name", "expected"),
    [
        ("one", "source:one"),
        ("source:one", "source:one"),
        ("target", "target"),
        # The table's, and one of this run's.
        ("gemma", "gemma"),
        ("my-terms", "my-terms"),
        ("nobody", "nobody"),
    ],
)
def test_a_sources_bare_name_means_it_where_no_licence_is_called_so(given_name: str, expected: str) -> None:
    sources = {"one": None, "gemma": None, "my-terms": None, "other": "my-terms"}
    assert accepted_name(given_name, models("mit", **sources)) == expected


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ((), None),
        (("mit", None), None),
        (("llama2", None), None),
        (("mit", "apache-2.0"), "mit"),
        (("apache-2.0", "llama2"), "llama2"),
        (("mit", "my-terms"), "my-terms"),
        (("gemma", "mit", "llama2", "gemma"), "gemma-and-llama2"),
    ],
)
def test_of_several_licences_of_a_model_all_that_bind_count(ids: tuple[str | None, ...], expected: str | None) -> None:
    assert combined(ids) == expected


@given(st.lists(IDS, min_size=1))
def test_several_licences_ask_whenever_one_of_them_does(ids: list[str | None]) -> None:
    alone = [asked("mit", source=id) for id in ids]
    assert bool(asked("mit", source=combined(ids))) == any(alone)


@given(IDS, IDS)
def test_only_free_or_met_conditions_go_unasked(target: str | None, source: str | None) -> None:
    wanted = asked(target, source=source)
    row = LICENCES.get(source or "")
    if row is None or (row.terms is not Terms.FREE and source != target):
        assert "source" in wanted


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (models("mit", one="apache-2.0"), ("mit", None)),
        (models("apache-2.0", one="gemma"), ("gemma", None)),
        (models("llama2", one="gemma"), ("other", "llama2-and-gemma")),
        (models("apache-2.0", one=None), ("other", "unknown")),
        (models("apache-2.0", one="my-terms"), ("other", "my-terms")),
    ],
)
def test_the_result_stands_under_all_terms_that_bind_it(
    listed: list[LicensedModel], expected: tuple[str, str | None]
) -> None:
    assert licence_of_result(listed) == expected
