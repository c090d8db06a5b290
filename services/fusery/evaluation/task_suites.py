"""Which tasks a name means: suites of the paper's evaluation, and single tasks by the names of lm-evaluation-harness.

Few-shot settings are the paper's: BBH with the three examples and the chain of thought of its authors, answers found
by exact match; common sense and code without examples. docs/evaluation.md has the table.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

BBH = (
    "boolean_expressions",
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "dyck_languages",
    "formal_fallacies",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "multistep_arithmetic_two",
    "navigate",
    "object_counting",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
    "web_of_lies",
    "word_sorting",
)
MULTIPL_E = ("cpp", "js", "lua", "php", "pl", "rb", "sh")
"""Languages of MultiPL-E that can be run here with an interpreter, or g++."""

COT, FEWSHOT, MULTIPLE = "bbh_cot_fewshot_", "bbh_fewshot_", "multipl_e_"

SUITES: Mapping[str, tuple[str, ...]] = {
    "reasoning": tuple(f"{COT}{name}" for name in BBH),
    "commonsense": ("arc_easy", "arc_challenge", "boolq", "hellaswag", "openbookqa"),
    "code": ("humaneval",),
    # The same questions with answers only: cheap, and possible for models too small to reason in words.
    "reasoning_direct": tuple(f"{FEWSHOT}{name}" for name in BBH),
    "multipl_e": tuple(f"{MULTIPLE}{language}" for language in MULTIPL_E),
}

DEFINITIONS: Mapping[str, str] = {
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    **{f"{COT}{name}": f"bbh/cot_fewshot/{name}.yaml" for name in BBH},
    **{f"{FEWSHOT}{name}": f"bbh/fewshot/{name}.yaml" for name in BBH},
}
"""Where the library defines a task: finding it by its name takes half a minute, for it reads 14,000 files."""

CODE: tuple[str, ...] = (*SUITES["code"], *SUITES["multipl_e"])
"""Tasks whose answers are programs that are run."""


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """The tasks that `names` mean, suites unfolded, each once, in order."""
    return tuple(dict.fromkeys(task for name in names for task in SUITES.get(name, (name,))))


def nearest(name: str, known: Sequence[str]) -> str:
    """'did you mean …?' with the nearest known names, or all suites."""
    found = difflib.get_close_matches(name, [*SUITES, *known], n=3, cutoff=0.5)
    if found:
        return f"did you mean {' or '.join(repr(near) for near in found)}?"
    return f"suites: {', '.join(SUITES)}; any task of lm-evaluation-harness goes by its name there"
