"""How accuracy falls when inputs are disturbed: attacks on embeddings, corrupted clues, harder examples.

- FGSM and PGD (Goodfellow et al. 2015, arXiv 1412.6572; Madry et al. 2018, arXiv 1706.06083) move each embedded token
  by at most epsilon in every component, uphill in the loss of all supervision steps. Gradients pass through the last
  recursion of each step, as in training, so the attack is as strong as the model's own learning signal.
- Random noise of the same size stands beside them: what is not worse than noise is no attack.
- Clues are blanked, replaced by wrong symbols, or invented in blank cells; the target stays that of the whole puzzle.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from titans_trm.data.examples import ExampleSet
from titans_trm.data.spec import PAD
from titans_trm.evaluation.resampling import Intervals
from titans_trm.evaluation.results import Estimate
from titans_trm.evaluation.solving import solve_examples
from titans_trm.models.titans_trm import TitansTRM

Attack = Literal["noise", "fgsm", "pgd"]
Corruption = Literal["blanked", "wrong", "invented"]

_PGD_STEP = 2.5  # times epsilon over the number of steps: reaches the border and can turn (Madry et al. 2018)

ATTACKS: dict[Attack, str] = {
    "noise": "Random signs: the control.",
    "fgsm": "One gradient step.",
    "pgd": "Several gradient steps, projected back.",
}
CORRUPTIONS: dict[Corruption, str] = {
    "blanked": "Given cells emptied: the puzzle may then have several solutions.",
    "wrong": "Given cells that hold another symbol.",
    "invented": "Blank cells filled with a wrong symbol: distractors.",
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """Accuracy at one strength of a disturbance."""

    strength: float
    exact_accuracy: Estimate
    token_accuracy: float
    changed_examples: int  # examples that could be disturbed this much


@dataclass(frozen=True, kw_only=True)
class RobustnessTest:
    """One disturbance at growing strength; strength 0 is the untouched set."""

    name: str
    title: str
    unit: str  # of strength
    note: str  # how to read it
    points: list[Point]


def score_sets(
    model: TitansTRM,
    sets: Sequence[ExampleSet],
    *,
    title: str,
    note: str,
    batch_size: int,
    ignore_index: int,
    confidence: float = 0.95,
) -> RobustnessTest:
    """Return accuracy on each of `sets`, at strength 0, 1, ...: the run's own examples first, then others."""
    points = []
    for strength, examples in enumerate(sets):
        solved = solve_examples(model, examples, batch_size=batch_size, ignore_index=ignore_index)
        points.append(_point(strength, examples, solved.exact, solved.token_accuracy, confidence))
    return RobustnessTest(name="other_data", title=title, unit="set", note=note, points=points)


def attack_embeddings(
    model: TitansTRM,
    examples: ExampleSet,
    attack: Attack,
    epsilons: Sequence[float],
    *,
    batch_size: int,
    ignore_index: int,
    pgd_steps: int = 5,
    seed: int = 0,
    confidence: float = 0.95,
    on_batch: Callable[[int], None] | None = None,
) -> RobustnessTest:
    """Return accuracy after moving every embedded token by up to epsilon, of an embedding whose components are order 1.

    Args:
        model: on its device, in fp32; full supervision steps are run.
        examples: what is disturbed.
        attack: `noise`, `fgsm` or `pgd`.
        epsilons: strengths, the first usually 0.
        batch_size: examples at once.
        ignore_index: targets that are not scored.
        pgd_steps: gradient steps of `pgd`.
        seed: of the noise.
        confidence: level of the intervals.
        on_batch: told the number of examples after each batch, for a progress bar.
    """
    training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    points = []
    for epsilon in epsilons:
        exact, tokens = [], []
        for start in range(0, len(examples), batch_size):
            rows = torch.arange(start, min(start + batch_size, len(examples)))
            batch = examples.batch(rows).to(next(model.parameters()).device)
            with torch.no_grad():
                clean = model.embed(batch.inputs, batch.puzzle_ids)
            delta = _delta(model, clean, batch.targets, attack, epsilon, pgd_steps, ignore_index, generator)
            with torch.no_grad():
                answers = _answers(model, clean + delta)
            right = (answers == batch.targets) | (batch.targets == ignore_index)
            scored = (batch.targets != ignore_index).sum(dim=1).clamp_min(1)
            exact.append(right.all(dim=1).cpu())
            tokens.append((1 - (~right).sum(dim=1) / scored).cpu())
            if on_batch is not None:
                on_batch(len(rows))
        points.append(_point(epsilon, examples, torch.cat(exact), torch.cat(tokens), confidence))
    model.train(training)
    title = {"noise": "Random noise on embeddings", "fgsm": "FGSM on embeddings", "pgd": "PGD on embeddings"}[attack]
    return RobustnessTest(name=attack, title=title, unit="epsilon", note=ATTACKS[attack], points=points)


def corrupt_clues(
    model: TitansTRM,
    examples: ExampleSet,
    corruption: Corruption,
    counts: Sequence[int],
    *,
    batch_size: int,
    ignore_index: int,
    seed: int = 0,
    confidence: float = 0.95,
    on_batch: Callable[[int], None] | None = None,
) -> RobustnessTest:
    """Return accuracy after changing a number of input cells of every example that has as many to change."""
    points = []
    for count in counts:
        inputs, changed = corrupted(examples, corruption, count, seed)
        disturbed = replace(examples, inputs=inputs).select(changed.nonzero().squeeze(1))
        if not len(disturbed):
            continue
        solved = solve_examples(model, disturbed, batch_size=batch_size, ignore_index=ignore_index, on_batch=on_batch)
        points.append(_point(count, disturbed, solved.exact, solved.token_accuracy, confidence))
    title = {"blanked": "Clues blanked", "wrong": "Clues made wrong", "invented": "False clues invented"}[corruption]
    note = CORRUPTIONS[corruption]
    return RobustnessTest(name=f"clues_{corruption}", title=title, unit="cells changed", note=note, points=points)


def corrupted(examples: ExampleSet, corruption: Corruption, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return inputs (n, N) uint8 with `count` cells changed, and which examples (n,) had as many to change.

    A cell is given where the input equals the target and is asked for where it differs; the blank is the commonest
    input of the cells asked for. Cells are drawn by `seed`, the same ones for the same example at every count and more
    of them at a higher one.
    """
    inputs, targets = examples.inputs.long(), examples.targets.long()
    scored = targets != PAD
    given, asked = (inputs == targets) & scored, (inputs != targets) & scored
    if not bool(asked.any()):
        return examples.inputs.clone(), torch.zeros(len(examples), dtype=torch.bool)
    blank = int(inputs[asked].bincount().argmax())
    candidates = asked & (inputs == blank) if corruption == "invented" else given
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(inputs.shape, generator=generator).masked_fill(~candidates, 2.0)
    chosen = order.argsort(dim=1).argsort(dim=1) < count
    enough = candidates.sum(dim=1) >= count
    chosen &= candidates & enough[:, None]
    symbols = targets[scored].unique()
    wrong = _other_symbols(targets, symbols, generator)
    changed = torch.full_like(inputs, blank) if corruption == "blanked" else wrong
    return torch.where(chosen, changed, inputs).to(examples.inputs.dtype), enough


def _other_symbols(targets: Tensor, symbols: Tensor, generator: torch.Generator) -> Tensor:
    """Return for every cell (n, N) a random symbol of the answers other than its target."""
    place = torch.searchsorted(symbols, targets).clamp_max(len(symbols) - 1)
    shift = torch.randint(1, max(len(symbols), 2), targets.shape, generator=generator)
    return symbols[(place + shift) % len(symbols)]


def _delta(
    model: TitansTRM,
    clean: Tensor,
    targets: Tensor,
    attack: Attack,
    epsilon: float,
    pgd_steps: int,
    ignore_index: int,
    generator: torch.Generator,
) -> Tensor:
    """Return the disturbance (B, N + 1, D) of largest component `epsilon`."""
    start = torch.rand(clean.shape, generator=generator).to(clean) * 2 - 1
    if epsilon == 0.0 or attack == "noise":
        return epsilon * start.sign()
    if attack == "fgsm":
        return epsilon * _gradient(model, clean, torch.zeros_like(clean), targets, ignore_index).sign()
    delta, size = epsilon * start, _PGD_STEP * epsilon / pgd_steps
    for _ in range(pgd_steps):
        delta = delta + size * _gradient(model, clean, delta, targets, ignore_index).sign()
        delta = delta.clamp(-epsilon, epsilon)
    return delta


def _gradient(model: TitansTRM, clean: Tensor, delta: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    """Return the gradient of the loss of all supervision steps with respect to `delta`."""
    delta = delta.detach().requires_grad_(True)
    carry = model.initial_carry(len(clean), clean.shape[1] - 1)
    total = torch.zeros_like(delta)
    with torch.enable_grad():
        for _ in range(model.config.halting.max_supervision_steps):
            output = model.step(clean + delta, carry)
            loss = F.cross_entropy(output.logits.float().transpose(1, 2), targets, ignore_index=ignore_index)
            total += torch.autograd.grad(loss, delta)[0]
            carry = output.carry
    return total


def _answers(model: TitansTRM, embedded: Tensor) -> Tensor:
    """Return the answers (B, N) after all supervision steps."""
    carry = model.initial_carry(len(embedded), embedded.shape[1] - 1)
    for _ in range(model.config.halting.max_supervision_steps):
        output = model.step(embedded, carry)
        carry = output.carry
    return output.logits.argmax(dim=-1)


def _point(strength: float, examples: ExampleSet, exact: Tensor, tokens: Tensor, confidence: float) -> Point:
    estimate = Intervals(examples.keys, confidence=confidence).proportion(exact.numpy())
    mean = float(tokens.double().mean())
    return Point(strength=float(strength), exact_accuracy=estimate, token_accuracy=mean, changed_examples=len(examples))
