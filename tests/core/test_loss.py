"""The loss against an oracle: the formulas written plainly, dense, in float64, differentiated by autograd."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from fusery.core.loss import IGNORED, LossMeans, SparseEvidence, loss_of_hidden, loss_of_logits
from fusery.core.objective import Objective, Partitions, tempered
from fusery.core.rules import Tail
from fusery.core.topk import PAD

torch.set_num_threads(1)
SEEDS = st.integers(0, 2**32 - 1)
TAILS = list(Tail)
INDEX = torch.int64


@dataclass(frozen=True)
class DenseHead:
    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True)
class Case:
    """Everything that the loss takes, in float64, and the arrays cell_of_target that the partitions come from."""

    hidden: torch.Tensor
    head: DenseHead
    labels: torch.Tensor
    evidence: SparseEvidence
    cell_of_target: list[np.ndarray]

    @property
    def partitions(self) -> Partitions:
        return Partitions.of(self.cell_of_target)


def random_case(
    seed: int, *, rows: int = 9, sources: int = 2, softcap: float | None = None, scale: float = 1.0
) -> Case:
    """Rows with none, one or several sources' evidence; some labels ignored; some tokens in no cell."""
    rng = np.random.default_rng(seed)
    width, vocabulary, cells, k = 5, 17, 8, 6
    partitions = [rng.integers(PAD, cells, vocabulary) for _ in range(sources)]
    labels = np.where(rng.random(rows) < 0.2, IGNORED, rng.integers(0, vocabulary, rows))
    pairs = [(row, source) for row in range(rows) for source in range(sources) if rng.random() < 0.6]
    ids = np.full((len(pairs), k), PAD)
    log_probs = np.full((len(pairs), k), -np.inf)
    for i, (_, source) in enumerate(pairs):
        present = np.unique(partitions[source][partitions[source] != PAD])
        kept = rng.permutation(present)[: rng.integers(0, k + 1)]
        mass = rng.dirichlet(np.full(len(kept) + 1, 0.7))[:-1] if len(kept) else np.zeros(0)
        ids[i, : len(kept)], log_probs[i, : len(kept)] = kept, np.log(np.maximum(mass, 1e-12))
    row_numbers = np.asarray([row for row, _ in pairs], np.int64)
    raw = rng.random(len(pairs)) + 0.1
    weights = raw / np.bincount(row_numbers, raw, minlength=rows)[row_numbers] if pairs else raw
    evidence = SparseEvidence(
        torch.as_tensor(row_numbers),
        torch.as_tensor(np.asarray([source for _, source in pairs], np.int64)),
        torch.as_tensor(weights),
        torch.as_tensor(ids),
        torch.as_tensor(log_probs),
    )
    head = DenseHead(
        torch.as_tensor(rng.normal(size=(vocabulary, width))),
        torch.as_tensor(rng.normal(size=vocabulary)),
        scale,
        softcap,
    )
    return Case(torch.as_tensor(rng.normal(size=(rows, width))), head, torch.as_tensor(labels), evidence, partitions)


def dense_logits(hidden: torch.Tensor, head: DenseHead) -> torch.Tensor:
    z = head.scale * (hidden @ head.weight_VD.T + (0 if head.bias_V is None else head.bias_V))
    return z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)


def row_of_evidence(log_q: torch.Tensor, mass: torch.Tensor, members: list[list[int]], tail: Tail) -> torch.Tensor:
    """The fusion loss of one row, from the definition; `log_q` [V]."""
    log_cells = torch.stack([torch.logsumexp(log_q[tokens], 0) for tokens in members])
    if tail is Tail.RENORMALISE:
        mass = mass / mass.sum()
    loss = -(mass * log_cells).sum()
    outside = [token for token in range(len(log_q)) if token not in {t for tokens in members for t in tokens}]
    if tail is Tail.TAIL and outside:
        loss = loss - (1 - mass.sum()).clamp(min=0) * torch.logsumexp(log_q[outside], 0)
    return loss


def oracle(case: Case, clm_weight: float, tail: Tail) -> torch.Tensor:
    """The objective, one row and one source at a time."""
    log_q_NV = torch.log_softmax(dense_logits(case.hidden, case.head), 1)
    total, labelled = log_q_NV.sum() * 0, 0
    for row, label in enumerate(case.labels.tolist()):
        if label == IGNORED:
            continue
        labelled += 1
        terms, weights = [], []
        for e in torch.nonzero(case.evidence.rows_R == row).flatten().tolist():
            cell_of_target = case.cell_of_target[int(case.evidence.partitions_R[e])]
            entries = [i for i, cell in enumerate(case.evidence.ids_RK[e].tolist()) if cell != PAD]
            members = [np.flatnonzero(cell_of_target == int(case.evidence.ids_RK[e, i])).tolist() for i in entries]
            if entries:
                terms.append(
                    row_of_evidence(log_q_NV[row], case.evidence.log_probs_RK[e, entries].exp(), members, tail)
                )
                weights.append(float(case.evidence.weights_R[e]))
        fusion = sum(w / sum(weights) * t for w, t in zip(weights, terms, strict=True))
        share = 1 - clm_weight if terms else 0.0
        total = total - (1 - share) * log_q_NV[row, label] + share * fusion
    return total / max(1, labelled)


def gradients(loss: torch.Tensor, case: Case) -> list[torch.Tensor]:
    assert case.head.bias_V is not None
    return list(torch.autograd.grad(loss, [case.hidden, case.head.weight_VD, case.head.bias_V]))


def with_gradients(case: Case) -> Case:
    for tensor in (case.hidden, case.head.weight_VD, case.head.bias_V):
        assert tensor is not None
        tensor.requires_grad_()
    return case


def ours(case: Case, clm_weight: float, tail: Tail, chunk_rows: int | None = None) -> torch.Tensor:
    objective = Objective(clm_weight, tail)
    return loss_of_hidden(
        case.hidden, case.head, case.labels, case.evidence, case.partitions, objective, chunk_rows=chunk_rows
    )[0]


def gradient_of_row(logits: torch.Tensor, evidence: SparseEvidence, cells: np.ndarray, tail: Tail) -> torch.Tensor:
    """dL/dz [V] of a single row under fusion alone."""
    z = logits[None].clone().requires_grad_()
    objective = Objective(0.0, tail)
    loss, _ = loss_of_logits(z, torch.zeros(1, dtype=INDEX), evidence, Partitions.of([cells]), objective)
    return torch.autograd.grad(loss, z)[0][0]


def one_row(ids: list[int], mass: list[float]) -> SparseEvidence:
    log_probs = torch.tensor([mass], dtype=torch.float64).log()
    zero = torch.zeros(1, dtype=INDEX)
    return SparseEvidence(zero, zero, torch.ones(1), torch.tensor([ids]), log_probs)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize(("softcap", "scale"), [(None, 1.0), (3.0, 1.0), (None, 0.25), (2.0, 1.7)])
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, clm_weight=st.sampled_from([0.0, 0.3, 0.9, 1.0]), sources=st.integers(1, 3))
def test_loss_and_gradients_equal_the_dense_oracle(
    tail: Tail, softcap: float | None, scale: float, seed: int, clm_weight: float, sources: int
) -> None:
    case = with_gradients(random_case(seed, sources=sources, softcap=softcap, scale=scale))
    expected, loss = oracle(case, clm_weight, tail), ours(case, clm_weight, tail, chunk_rows=4)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-11)
    for got, want in zip(gradients(loss, case), gradients(expected, case), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("tail", TAILS)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_float32_agrees_with_the_float64_oracle_within_rounding(tail: Tail, seed: int) -> None:
    exact = with_gradients(random_case(seed))
    narrow = DenseHead(*(t.detach().float().requires_grad_() for t in (exact.head.weight_VD, exact.head.bias_V)))  # type: ignore[union-attr,arg-type]
    case = Case(
        exact.hidden.detach().float().requires_grad_(), narrow, exact.labels, exact.evidence, exact.cell_of_target
    )
    for got, want in zip(
        gradients(ours(case, 0.4, tail), case), gradients(oracle(exact, 0.4, tail), exact), strict=True
    ):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tail", TAILS)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_loss_of_logits_equals_loss_of_hidden_states(tail: Tail, seed: int) -> None:
    case = with_gradients(random_case(seed))
    logits = dense_logits(case.hidden, case.head)
    loss, _ = loss_of_logits(logits, case.labels, case.evidence, case.partitions, Objective(0.5, tail), chunk_rows=2)
    expected = ours(case, 0.5, tail)
    torch.testing.assert_close(loss, expected)
    for got, want in zip(gradients(loss, case), gradients(expected, case), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("tail", TAILS)
def test_gradcheck_in_float64(tail: Tail) -> None:
    case = random_case(3, rows=5, softcap=4.0, scale=0.8)
    inputs = [t.clone().requires_grad_() for t in (case.hidden, case.head.weight_VD, case.head.bias_V) if t is not None]

    def loss(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        head = DenseHead(weight, bias, case.head.scale, case.head.softcap)
        return ours(Case(hidden, head, case.labels, case.evidence, case.cell_of_target), 0.3, tail)

    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("tail", TAILS)
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, chunk_rows=st.integers(1, 12))
def test_chunk_size_changes_nothing_beyond_rounding(tail: Tail, seed: int, chunk_rows: int) -> None:
    case = with_gradients(random_case(seed))
    whole, chunked = ours(case, 0.6, tail, chunk_rows=100), ours(case, 0.6, tail, chunk_rows=chunk_rows)
    torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-12)
    for got, want in zip(gradients(chunked, case), gradients(whole, case), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_one_hot_evidence_on_the_label_is_clm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, label = torch.as_tensor(rng.normal(size=11) * 4), int(rng.integers(11))
    for tail in TAILS:
        gradient = gradient_of_row(logits, one_row([label], [1.0]), np.arange(11), tail)
        expected = torch.softmax(logits, 0)
        expected[label] -= 1
        torch.testing.assert_close(gradient, expected)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_cells_of_one_token_are_tokens_in_whatever_order_they_are_numbered(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, mass = torch.as_tensor(rng.normal(size=9)), rng.dirichlet(np.ones(5))[:4].tolist()
    cells = rng.permutation(9)
    tokens = rng.permutation(9)[:4]
    for tail in TAILS:
        by_cells = gradient_of_row(logits, one_row(cells[tokens].tolist(), mass), cells, tail)
        by_tokens = gradient_of_row(logits, one_row(tokens.tolist(), mass), np.arange(9), tail)
        torch.testing.assert_close(by_cells, by_tokens)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_merging_cells_is_summing_their_masses(seed: int) -> None:
    """The gradient of a merged cell is that of the cells if the sources split their mass as the target does."""
    rng = np.random.default_rng(seed)
    logits, rest = torch.as_tensor(rng.normal(size=8)), float(rng.uniform(0.1, 0.6))
    q = torch.softmax(logits, 0)
    inside = (q[:3] / q[:3].sum() * rest).tolist()
    merged = np.asarray([0, 0, 0, 3, 4, 5, 6, 7])
    for tail in TAILS:
        together = gradient_of_row(logits, one_row([0, 4], [rest, 0.2]), merged, tail)
        apart = gradient_of_row(logits, one_row([0, 1, 2, 4], [*inside, 0.2]), np.arange(8), tail)
        torch.testing.assert_close(together, apart)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, kept=st.floats(0.05, 1.0))
def test_the_gradient_of_a_row_adds_up_to_zero(seed: int, kept: float) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.as_tensor(rng.normal(size=12) * 3)
    mass = (rng.dirichlet(np.ones(5)) * kept).tolist()
    for tail in TAILS:
        gradient = gradient_of_row(logits, one_row([3, 1, 2, 0, 4], mass), np.arange(12) // 2, tail)
        assert abs(float(gradient.sum())) < 1e-12


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_evidence_on_the_whole_vocabulary_is_the_gradient_of_dense_kl(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, p = torch.as_tensor(rng.normal(size=10) * 2), rng.dirichlet(np.ones(10))
    for tail in TAILS:
        gradient = gradient_of_row(logits, one_row(list(range(10)), p.tolist()), np.arange(10), tail)
        z = logits.clone().requires_grad_()
        kl = torch.nn.functional.kl_div(torch.log_softmax(z, 0), torch.as_tensor(p), reduction="sum")
        torch.testing.assert_close(gradient, torch.autograd.grad(kl, z)[0], rtol=1e-6, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_rows_without_evidence_give_plain_clm(seed: int) -> None:
    case = with_gradients(random_case(seed, sources=0))
    loss = ours(case, 0.1, Tail.TAIL)
    if (case.labels == IGNORED).all():
        assert loss == 0
        return
    expected = cross_entropy(dense_logits(case.hidden, case.head), case.labels, ignore_index=IGNORED)
    torch.testing.assert_close(loss, expected)
    for got, want in zip(gradients(loss, case), gradients(expected, case), strict=True):
        torch.testing.assert_close(got, want)


def test_masked_rows_give_nothing_even_with_evidence() -> None:
    case = with_gradients(random_case(5))
    case.labels[:] = IGNORED
    loss = ours(case, 0.5, Tail.TAIL)
    assert loss == 0
    assert all(not gradient.any() for gradient in gradients(loss, case))


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, copies=st.integers(2, 4))
def test_weighted_copies_of_one_evidence_are_that_evidence(seed: int, copies: int) -> None:
    case = with_gradients(random_case(seed, sources=1))
    repeat = torch.arange(len(case.evidence.rows_R)).repeat_interleave(copies)
    many = case.evidence.take(repeat)
    many = SparseEvidence(many.rows_R, many.partitions_R, many.weights_R / copies, many.ids_RK, many.log_probs_RK)
    for tail in TAILS:
        loss = ours(case, 0.2, tail)
        again = ours(Case(case.hidden, case.head, case.labels, many, case.cell_of_target), 0.2, tail)
        torch.testing.assert_close(again, loss)
        for got, want in zip(gradients(again, case), gradients(loss, case), strict=True):
            torch.testing.assert_close(got, want)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, clm_weight=st.floats(0, 1), temperature=st.sampled_from([0.5, 1.0, 2.0]), k=st.integers(1, 6))
def test_with_renormalise_and_evidence_at_every_row_the_loss_is_the_papers(
    seed: int, clm_weight: float, temperature: float, k: int
) -> None:
    """λ · cross-entropy of the labels + (1 − λ) · cross-entropy of a softmax over the k kept logits, dense."""
    rng = np.random.default_rng(seed)
    rows, vocabulary = 7, 11
    logits = torch.as_tensor(rng.normal(size=(rows, vocabulary)) * 2).requires_grad_()
    labels = torch.as_tensor(rng.integers(0, vocabulary, rows))
    source_log_probs = torch.log_softmax(torch.as_tensor(rng.normal(size=(rows, vocabulary)) * 2), 1)
    top = source_log_probs.topk(k, dim=1)
    target = torch.zeros(rows, vocabulary, dtype=torch.float64)
    target.scatter_(1, top.indices, torch.softmax(top.values / temperature, 1))
    expected = clm_weight * cross_entropy(logits, labels) + (1 - clm_weight) * cross_entropy(logits, target)
    numbers = torch.arange(rows)
    ones = torch.ones(rows, dtype=torch.float64)
    evidence = SparseEvidence(numbers, torch.zeros_like(numbers), ones, top.indices, top.values)
    cells, objective = Partitions.of([np.arange(vocabulary)]), Objective(clm_weight, Tail.RENORMALISE, temperature)
    loss, _ = loss_of_logits(logits, labels, evidence, cells, objective)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-11)
    (got,), (want,) = torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits)
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, temperature=st.floats(0.2, 5.0))
def test_a_temperature_keeps_the_order_and_counts_the_tail_as_one_outcome(seed: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    mass = torch.as_tensor(rng.dirichlet(np.ones(6), 3))
    kept = tempered(mass[:, :5], temperature)
    whole = mass.pow(1 / temperature)
    torch.testing.assert_close(kept, (whole / whole.sum(1, keepdim=True))[:, :5])
    assert torch.equal(kept.argsort(1), mass[:, :5].argsort(1))
    assert torch.equal(tempered(mass, 1.0), mass)
    assert tempered(torch.zeros(1, 4), temperature).sum() == 0


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("logit", [-300.0, 300.0])
def test_a_target_sure_of_anything_has_a_finite_bounded_gradient(tail: Tail, logit: float) -> None:
    logits = torch.zeros(6)
    logits[1] = logit
    gradient = gradient_of_row(logits, one_row([1, 2], [0.5, 0.3]), np.asarray([PAD, 1, 2, 2, PAD, PAD]), tail)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() <= 1 + 1e-6
    assert (gradient[1] < 0) == (logit < 0)


def test_the_mass_of_an_unlikely_cell_never_underflows() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0, 0.0]], requires_grad=True)
    cells = Partitions.of([np.asarray([0, 1, 1, 1])])
    loss, _ = loss_of_logits(
        logits, torch.zeros(1, dtype=INDEX), one_row([1], [1.0]), cells, Objective(0.0, Tail.RENORMALISE)
    )
    assert loss.item() == pytest.approx(200 - np.log(3), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient[0], torch.tensor([1.0, -1 / 3, -1 / 3, -1 / 3]))


def test_a_tail_known_to_float16_only_gives_a_finite_loss_when_nothing_is_outside() -> None:
    evidence = one_row([0, 1, 2], [0.5, 0.3, 0.1996])
    gradient = gradient_of_row(torch.tensor([1.0, 2.0, 3.0]), evidence, np.arange(3), Tail.TAIL)
    assert torch.isfinite(gradient).all()
    assert abs(float(gradient.sum())) < 1e-6


def test_a_row_that_keeps_no_mass_counts_as_no_evidence() -> None:
    rows = torch.tensor([0, 0, 1])
    ids = torch.tensor([[0, 1], [PAD, PAD], [9, PAD]])  # cell 9 does not exist
    log_probs = torch.tensor([[0.6, 0.3], [0.0, 0.0], [1.0, 0.0]]).log()
    evidence = SparseEvidence(rows, torch.zeros(3, dtype=INDEX), torch.tensor([0.5, 0.5, 1.0]), ids, log_probs)
    logits, labels = torch.tensor([[0.1, 0.5, -0.3], [1.0, 0.2, 0.0]]), torch.tensor([2, 1])
    cells, objective = Partitions.of([np.arange(3)]), Objective(0.4, Tail.TAIL)
    loss, sums = loss_of_logits(logits, labels, evidence, cells, objective)
    alone = SparseEvidence(rows[:1], rows[:1], torch.ones(1), ids[:1], log_probs[:1])
    expected, _ = loss_of_logits(logits, labels, alone, cells, objective)
    torch.testing.assert_close(loss, expected)
    assert sums.means().evidence_rows == 1


def test_statistics_are_what_the_words_say() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.25, 0.25, 0.25, 0.25]]))
    evidence = one_row([0, 1], [0.5, 0.25])
    cells, objective = Partitions.of([np.asarray([0, 1, 1, 2])]), Objective(0.5, Tail.RENORMALISE)
    loss, sums = loss_of_logits(logits, torch.tensor([1, 3]), evidence, cells, objective)
    clm = 2 * np.log(4)
    fusion = 2 / 3 * np.log(2) - 1 / 3 * np.log(0.375)
    means = sums.means()
    assert means.clm_nats == pytest.approx(clm / 2)
    assert means.fusion_nats == pytest.approx(fusion, rel=1e-6)
    assert means.kept_mass == pytest.approx(0.75)
    assert means.target_mass_on_support == pytest.approx(0.875)
    assert means.loss == pytest.approx((clm / 4 + fusion / 2 + clm / 2) / 2, rel=1e-6) == pytest.approx(float(loss))
    assert (means.labelled_rows, means.evidence_rows) == (2, 1)


def test_statistics_of_parts_add_up_to_those_of_the_whole() -> None:
    case = random_case(11, rows=20)
    objective = Objective(0.5, Tail.TAIL)
    whole = loss_of_hidden(case.hidden, case.head, case.labels, case.evidence, case.partitions, objective)[1].means()
    parts = []
    for part in (slice(0, 8), slice(8, 20)):
        inside = (case.evidence.rows_R >= part.start) & (case.evidence.rows_R < part.stop)
        own = case.evidence.take(inside)
        own = SparseEvidence(own.rows_R - part.start, own.partitions_R, own.weights_R, own.ids_RK, own.log_probs_RK)
        parts.append(
            loss_of_hidden(case.hidden[part], case.head, case.labels[part], own, case.partitions, objective)[1]
        )
    together = (parts[0] + parts[1]).means()
    for name in LossMeans.__slots__:
        assert getattr(together, name) == pytest.approx(getattr(whole, name))


def test_no_statistics_of_evidence_where_there_is_none() -> None:
    _, sums = loss_of_logits(
        torch.zeros(2, 4), torch.tensor([0, 1]), None, Partitions.of([]), Objective(0.9, Tail.TAIL)
    )
    means = sums.means()
    assert (means.fusion_nats, means.kept_mass, means.target_mass_on_support) == (None, None, None)


def test_the_denominator_of_the_whole_batch_makes_parts_add_up() -> None:
    case = random_case(7, rows=12)
    labelled = float((case.labels != IGNORED).sum())
    objective = Objective(0.5, Tail.TAIL)
    halves = []
    for part in (slice(0, 6), slice(6, 12)):
        inside = (case.evidence.rows_R >= part.start) & (case.evidence.rows_R < part.stop)
        own = case.evidence.take(inside)
        own = SparseEvidence(own.rows_R - part.start, own.partitions_R, own.weights_R, own.ids_RK, own.log_probs_RK)
        halves.append(
            loss_of_hidden(case.hidden[part], case.head, case.labels[part], own, case.partitions, objective, labelled)[
                0
            ]
        )
    torch.testing.assert_close(halves[0] + halves[1], ours(case, 0.5, Tail.TAIL))


def test_under_autocast_products_run_in_bfloat16_and_the_rest_in_float32() -> None:
    case = random_case(2, rows=30)
    hidden, weight = case.hidden.float().requires_grad_(), case.head.weight_VD.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        narrow = Case(hidden, DenseHead(weight), case.labels, case.evidence, case.cell_of_target)
        loss = ours(narrow, 0.5, Tail.TAIL)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.dtype == torch.float32
    assert weight.grad is not None
    assert hidden.grad is not None
    exact = Case(case.hidden, DenseHead(case.head.weight_VD), case.labels, case.evidence, case.cell_of_target)
    expected = ours(exact, 0.5, Tail.TAIL)
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)


def test_without_gradients_only_the_loss_is_computed() -> None:
    case = with_gradients(random_case(4))
    expected = ours(case, 0.5, Tail.TAIL)
    with torch.no_grad():
        loss = ours(case, 0.5, Tail.TAIL)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected.detach())


@pytest.mark.parametrize(
    ("rows", "weights", "k", "message"),
    [([1, 0], 2, 2, "ascending"), ([0, 1], 1, 2, "one row number"), ([0, 1], 2, 3, "differ")],
)
def test_evidence_that_does_not_belong_together_is_refused(rows: list[int], weights: int, k: int, message: str) -> None:
    numbers = torch.tensor(rows)
    with pytest.raises(ValueError, match=message):
        SparseEvidence(numbers, numbers, torch.ones(weights), torch.zeros(2, 2, dtype=INDEX), torch.zeros(2, k))
