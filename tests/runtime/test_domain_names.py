"""Domains of any text as names of metrics: MLflow takes them, no two are one, and each can be read back."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fusery.registry.measures import final_metrics
from fusery.runtime.text.domain_names import MEAN, mean_label, metric_parts, mlflow_name, name_of

AWKWARD = [
    "https://example.org/a", "https://example.org/b", "/r/name", "r/name", "a//b", "a/", "C#", "C+", "C++",
    "c", "C", "mean", "Mean", "MEAN", "all", ".", "..", "...", ".hidden", "a.b", " ", "a ", " a", "a", "a_",
    "a:23", "a#", "a:", ":", "::", "%23", "é", "e\u0301", "e", "ß", "ss", "ſs", "新闻", "ΑΒΓ", "αβγ", "😀",
    "\u001b[31m", "\n", "\t", "\u0000", "\u202e", "x" * 500, "x" * 501, "#" * 300, "mean of domains",
    "positions", "fused", "target before", "$a$", "<b>", "[x](y)", "`", "|", "\\", "'",
]  # fmt: skip
anything = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12) | st.sampled_from(AWKWARD)


def evaluation_of(domains: list[str]) -> dict[str, object]:
    scores = {"mean_bits_per_byte": 1.0, "domains": {domain: {"bits_per_byte": 2.0} for domain in domains}}
    name = "s" * 42
    return {
        "models": {"target_before": scores, "fused": scores, "sources": {name: scores}},
        "gains": {},
        "coverage": {name: {d: {"positions": 0.5, "kept_mass_deciles": [0.1] * 9} for d in domains}},
        "wins": {domain: {name: 1.0} for domain in domains},
    }


@given(domains=st.lists(anything, min_size=1, max_size=12, unique=True))
@example(domains=AWKWARD)
def test_metrics_of_any_domains_are_taken_distinct_and_reversible(domains: list[str]) -> None:
    from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_metric_name

    parts = metric_parts(domains)
    assert [name_of(parts[domain], domains) for domain in domains] == domains
    metrics = final_metrics(evaluation_of(domains))
    assert len(metrics) == 3 * (len(domains) + 1) + 2, (
        "of each model every domain and the mean; two means of the source"
    )
    for name in metrics:
        _validate_metric_name(name)
        assert len(name) <= MAX_ENTITY_KEY_LENGTH
        assert mlflow_name(name) == name
    assert metrics[f"bits_per_byte/fused/{MEAN}"] == 1.0
    # Databases that compare without case, accents and spaces at the end hold them apart too.
    assert len({part.casefold().rstrip() for part in parts.values()} | {MEAN}) == len(domains) + 1


@pytest.mark.parametrize(
    ("domains", "parts"),
    [
        (["code", "web text", "wiki-2.0", "新闻"], ["code", "web text", "wiki-2.0", "新闻"]),
        (["https://example.org/a"], ["https:3A:2F:2Fexample.org:2Fa"]),
        (["/r/name"], [":2Fr:2Fname"]),
        (["C#", "C+"], ["C:23", "C:2B"]),
        (["mean"], [":6Dean"]),
        (["Code", "code"], [":43ode", "code"]),
        (["code", "Code"], ["code", ":43ode"]),
        (["a "], ["a:20"]),
    ],
)
def test_a_name_changes_no_more_than_it_must(domains: list[str], parts: list[str]) -> None:
    assert list(metric_parts(domains).values()) == parts


def test_the_mean_has_a_name_of_its_own() -> None:
    assert mean_label(["code"]) == "mean"
    assert mean_label(["code", "Mean"]) == "mean of domains"
    assert mean_label(["mean", "mean of domains"]) == "mean of domains of domains"


def test_a_cut_name_is_found_among_the_names_and_nowhere_else() -> None:
    long = "https://example.org/" + "x" * 400
    part = metric_parts([long])[long]
    assert len(part) <= 120
    assert name_of(part, ["a", long]) == long
    with pytest.raises(KeyError):
        name_of(part, ["a"])
