"""Tables: what people read, in a terminal, in a pipe and in a document."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from fusery.evaluation.gain import Gain, Interval
from fusery.evaluation.report.report import Report
from fusery.evaluation.report.tables import bits_per_byte_cells, gain_figures, percent, render_tables, to_markdown
from fusery.evaluation.scores import Scores


def scores_of(*bits: float, domains: tuple[str, ...] = ("prose", "code")) -> Scores:
    return Scores(tuple(f"d{i}" for i in range(len(bits))), domains, bits, (100,) * len(bits))


def report_of(**changes: Any) -> Report:
    content: dict[str, Any] = {
        "run_id": "tiny-0123456789",
        "target_before": scores_of(250.0, 260.0),
        "clm": scores_of(220.0, 230.0),
        "sources": {"coder": scores_of(300.0, 150.0)},
        "fused": scores_of(210.0, 200.0),
        "coverage": {"coder": {"prose": {"positions": 0.5, "kept_mass": 0.912}}},
        "wins": {"prose": {"coder": 0.75, "target": 0.25}, "code": {"coder": 1.0}},
        "resamples": 100,
    }
    return Report(**(content | changes))


def rendered(report: Report, width: int = 120, terminal: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal, color_system="standard" if terminal else None)
    console.print(*render_tables(report), sep="\n")
    return stream.getvalue()


def test_rows_are_models_and_columns_domains_and_the_mean() -> None:
    cells = bits_per_byte_cells(report_of())
    assert cells.headings == ("model", "prose", "code", "mean")
    assert [row[0] for row in cells.rows] == ["target before", "source coder", "CLM", "fused"]
    assert cells.rows[-1] == ("fused", "2.1000", "2.0000", "2.0500")


def test_the_best_of_each_column_is_marked() -> None:
    assert bits_per_byte_cells(report_of()).best == {(3, 1), (1, 2), (3, 3)}


def test_a_tie_marks_both() -> None:
    same = scores_of(200.0, 200.0)
    report = report_of(target_before=same, fused=same, clm=None, sources={})
    assert bits_per_byte_cells(report).best == {(row, column) for row in (0, 1) for column in (1, 2, 3)}


def test_many_domains_become_rows_with_the_same_cells_marked() -> None:
    domains = tuple(f"domain-{i}" for i in range(22))
    after, before = (scores_of(*(bits,) * 22, domains=domains) for bits in (100.0, 200.0))
    cells = bits_per_byte_cells(report_of(target_before=before, fused=after, clm=None, sources={}))
    assert cells.headings == ("model", "target before", "fused")
    assert [row[0] for row in cells.rows] == [*domains, "mean"]
    assert cells.best == {(row, 2) for row in range(23)}


def test_a_terminal_shows_the_best_in_bold_and_a_pipe_no_control_codes() -> None:
    assert "\x1b[1m2.0500" in rendered(report_of(), terminal=True)
    assert "\x1b" not in rendered(report_of())


def test_names_that_look_like_mark_up_stay_as_they_are() -> None:
    domains = ("[bold]x[/bold]", "a[/]")
    scores = {name: scores_of(200.0, 210.0, domains=domains) for name in ("target_before", "fused", "clm")}
    report = report_of(**scores, sources={}, coverage={}, wins={"a[/]": {"[red]s": 1.0}})
    for terminal in (False, True):
        text = rendered(report, terminal=terminal)
        assert "[bold]x[/bold]" in text
        assert "a[/]" in text
        assert "[red]s" in text


def test_gain_lines_start_with_clm_and_say_how_sure_they_are() -> None:
    lines = [line for line in rendered(report_of()).splitlines() if line.startswith("fused against")]
    assert lines[0].startswith("fused against CLM: −8.9 % bits per byte, 95 % interval [")
    assert lines[1].startswith("fused against target before: −19.6 %")


def test_an_interval_that_holds_zero_is_called_no_difference() -> None:
    def line(low: float, high: float) -> str:
        return gain_figures(Gain(Interval(0, 0, 0), Interval(-0.026, low, high), 50, 20, 100))

    assert line(-0.031, -0.02) == "−2.6 % bits per byte, 95 % interval [−3.1 %, −2.0 %]"
    assert line(-0.06, 0.01).endswith("[−6.0 %, +1.0 %]; the interval holds 0: no difference shown")


def test_an_interval_from_a_handful_of_documents_is_called_too_narrow() -> None:
    line = gain_figures(Gain(Interval(0, 0, 0), Interval(-0.02, -0.03, -0.01), 50, 3, 100))
    assert line.endswith("[−3.0 %, −1.0 %] (too narrow: a domain has only 3 documents)")


@pytest.mark.parametrize(
    ("share", "text"),
    [(-0.026, "−2.6 %"), (0.5, "+50.0 %"), (0.0, "0.00 %"), (-0.0004, "−0.04 %"), (-1e-9, "0.00 %")],
)
def test_percentages_are_signed_and_never_minus_zero(share: float, text: str) -> None:
    assert percent(share) == text


def test_coverage_and_shares_stand_in_tables_and_gaps_as_dashes() -> None:
    text = rendered(report_of())
    assert "Target positions with evidence" in text
    assert all(share in text for share in ("50.0%", "91.2%", "75.0%"))
    target = next(line for line in text.splitlines() if "target " in line and "before" not in line)
    assert target.split()[1:] == ["target", "│", "25.0%", "│", "–", "│"]


def test_what_no_source_covers_is_a_dash_and_not_a_crash() -> None:
    text = rendered(report_of(coverage={"coder": {"prose": {"positions": 0.0, "kept_mass": None}}}))
    rows = [line.split()[1:-1] for line in text.splitlines() if line.startswith("│ coder")]
    assert rows[:2] == [["coder", "│", "0.0%"], ["coder", "│", "–"]]


def test_warnings_stand_after_the_tables_in_both_forms() -> None:
    report = report_of(warnings=("source [x], domain prose: evidence at 1.0%",))
    assert rendered(report).splitlines()[-1] == "warning: source [x], domain prose: evidence at 1.0%"
    assert to_markdown(report).splitlines()[-1] == "- warning: source \\[x\\], domain prose: evidence at 1.0%"


def test_under_avgce_the_shares_are_called_weights() -> None:
    assert "MinCE" in rendered(report_of())
    averaged = rendered(report_of(training={"fusion.rule": "avg_ce"}))
    assert "Weight that AvgCE gave the source" in averaged
    assert "MinCE" not in averaged


def test_tables_without_content_are_left_out() -> None:
    text = rendered(report_of(coverage={}, wins={}))
    assert "evidence" not in text
    assert "MinCE" not in text


def test_markdown_has_the_same_numbers_with_the_best_in_bold() -> None:
    text = to_markdown(report_of())
    assert "| model | prose | code | mean |\n|---|---:|---:|---:|\n" in text
    assert "| fused | **2.1000** | 2.0000 | **2.0500** |" in text
    assert "- fused against CLM: −8.9 %" in text


def test_a_pipe_in_a_name_does_not_break_a_markdown_table() -> None:
    domains = ("a|b", "c")
    scores = {name: scores_of(200.0, 210.0, domains=domains) for name in ("target_before", "fused")}
    assert "| model | a\\|b | c | mean |" in to_markdown(report_of(**scores, clm=None, sources={}))


def test_names_from_outside_are_text_in_both_forms() -> None:
    from markdown_it import MarkdownIt

    hostile = "a\x1b[2J\nFAKE ![p](x) <b> [l](y) `c` | d\u202e"
    coverage = {"coder": {hostile: {"positions": 0.5, "kept_mass": 0.9}}}
    report = report_of(coverage=coverage, wins={hostile: {"coder": 1.0}}, warnings=(f"domain {hostile}",))
    lines = rendered(report)
    assert not set(lines) & {"\x1b", "\u202e"}
    assert not any(line.startswith("FAKE") for line in lines.splitlines())
    tokens = MarkdownIt("commonmark").enable("table").parse(to_markdown(report))
    found = {child.type for token in tokens for child in token.children or []}
    assert found == {"text", "strong_open", "strong_close"}
