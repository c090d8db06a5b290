"""The names of every choice of algorithm. The functions stand in the module of their subject, in a dict by these names.

Here and not there, because a run's YAML is checked by these names in milliseconds, without numpy or torch.
"""

from __future__ import annotations

from enum import StrEnum


class Positions(StrEnum):
    """Which source row speaks about which target position (method: sequence dimension)."""

    BOUNDARY = "boundary"
    DTW = "dtw"
    REFERENCE = "reference"


class TieOrder(StrEnum):
    """Which of several equally cheap steps the warping path takes: the first named.

    The diagonal is always first; the paper's implementation then goes to the previous source token, its successor
    FuseChat to the previous target token.
    """

    DIAGONAL_SOURCE_TARGET = "diagonal_source_target"
    DIAGONAL_TARGET_SOURCE = "diagonal_target_source"


class Vocabulary(StrEnum):
    """How source tokens become target tokens, or cells of both (method: vocabulary dimension)."""

    PARTITION = "partition"
    MIN_ED = "min_ed"
    EXACT = "exact"


class Fallback(StrEnum):
    """What a target position without evidence gets: nothing, or all mass on the token at the position itself.

    The latter belongs to `reference`; it is what the paper's implementation does.
    """

    NONE = "none"
    CURRENT_TOKEN = "current_token"


class FusionRule(StrEnum):
    """How the aligned distributions of several sources become one.

    `avg_ce` weights by softmax(−c/τ); `avg_ce_exp` as the paper's implementation does, by softmax(exp(−c)), which is
    nearly uniform.
    """

    MIN_CE = "min_ce"
    AVG_CE = "avg_ce"
    AVG_CE_EXP = "avg_ce_exp"


class Cost(StrEnum):
    """What a source's error on a document is measured in; lower is better."""

    BITS_PER_BYTE = "bits_per_byte"
    TOKEN_CE = "token_ce"


class Tail(StrEnum):
    """What becomes of the probability mass outside the kept k entries: one outcome more, or part of the kept ones."""

    TAIL = "tail"
    RENORMALISE = "renormalise"


class Dtype(StrEnum):
    """Number format of weights and activations."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
