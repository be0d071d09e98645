"""Compute spent after training is really spent, counted, and buys what a run of its own would give."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from titans_trm.data.examples import ExampleSet
from titans_trm.data.maze.config import MazeConfig
from titans_trm.data.maze.task import MazeTask
from titans_trm.data.spec import TaskSpec
from titans_trm.data.sudoku.config import SudokuConfig
from titans_trm.data.sudoku.task import SudokuTask
from titans_trm.evaluation.scaling import ScalingPoint, Spending, noisy_carry, scale_compute
from titans_trm.models.config import BackboneConfig, HaltingConfig, MemoryConfig, RecursionConfig, TitansTRMConfig
from titans_trm.models.inference import solve
from titans_trm.models.titans_trm import TitansTRM

N, TRAINED, LONGEST = 24, 3, 8
SPEC = TaskSpec(name="any", seq_len=4, vocab_size=7)
SPENDING = Spending(steps=[1, LONGEST], patience=[1, 2], rollouts=[1, 3], noise=0.7, views=[1, 3])


def build(learned_init: bool = False) -> TitansTRM:
    """Return a model whose answers change and whose examples halt at different steps, with a puzzle of four cells."""
    torch.manual_seed(8)
    config = TitansTRMConfig(
        vocab_size=7,
        seq_len=4,
        width=16,
        backbone=BackboneConfig(num_blocks=1, num_heads=2, mlp_hidden=24, num_persistent_tokens=1),
        memory=MemoryConfig(num_heads=2, expansion=2),
        recursion=RecursionConfig(num_latent_steps=1, num_recursions=1, learned_init=learned_init),
        halting=HaltingConfig(max_supervision_steps=TRAINED, weight_init_std=4.0, bias_init=0.0),
    )
    model = TitansTRM(config)
    inputs = torch.randint(1, 7, (N, 4), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = solve(model, inputs, max_steps=LONGEST).halting_logits
        model.act_head.bias.copy_(-logits.median(dim=0).values[:TRAINED].max())
    return model


def questions(model: TitansTRM) -> ExampleSet:
    """Return questions whose right answer is what the model says after some step, another one for each."""
    inputs = torch.randint(1, 7, (N, 4), generator=torch.Generator().manual_seed(1))
    steps = solve(model, inputs, max_steps=LONGEST, keep_steps=True).step_answers
    targets = steps[torch.arange(N), torch.arange(N) % LONGEST]
    targets = torch.where(targets == 0, 1, targets)  # 0 is never scored
    return ExampleSet(
        name="val",
        inputs=inputs.to(torch.uint8),
        targets=targets.to(torch.uint8),
        keys=[str(row) for row in range(N)],
        sources=["made"] * N,
        ratings=torch.zeros(N, dtype=torch.int64),
    )


class Backwards:
    """A task that may be read from behind."""

    def view(self, inputs, generator):
        return inputs.flip(1), lambda answers: answers.flip(1)


@pytest.fixture(scope="module")
def measured() -> tuple[TitansTRM, ExampleSet, dict[tuple[str, int], ScalingPoint]]:
    model = build()
    examples = questions(model)
    points = scale_compute(model, examples, SPEC, SPENDING, symmetric=Backwards(), batch_size=10)
    return model, examples, {(point.method, point.setting): point for point in points}


def share_right(examples: ExampleSet, answers: torch.Tensor) -> float:
    return float((answers == examples.targets.long()).all(dim=1).double().mean())


def test_every_way_asked_for_is_there_and_the_trained_steps_too(measured):
    _, _, points = measured
    assert list(points) == [
        ("steps", 1), ("steps", TRAINED), ("steps", LONGEST),
        ("halting", TRAINED), ("halting", LONGEST),
        ("convergence", 1), ("convergence", 2),
        ("rollouts", 1), ("rollouts", 3),
        ("votes", 1), ("votes", 3),
    ]  # fmt: skip


@pytest.mark.parametrize("steps", [1, TRAINED, LONGEST])
def test_steps_are_as_in_a_run_of_their_own(measured, steps):
    model, examples, points = measured
    point = points["steps", steps]
    alone = solve(model, examples.inputs.long(), max_steps=steps)
    assert point.accuracy.value == pytest.approx(share_right(examples, alone.answers))
    assert point.net_calls == pytest.approx(alone.net_calls / N)
    base = share_right(examples, solve(model, examples.inputs.long()).answers)
    assert point.gain.value == pytest.approx(point.accuracy.value - base)
    assert points["steps", LONGEST].cpu_seconds > points["steps", 1].cpu_seconds > 0.0
    assert 0.0 < base < 1.0, "the test needs some right and some wrong"


def test_early_exits_cost_what_they_ran(measured):
    model, examples, points = measured
    rows = []
    handle = model.recursion.net.register_forward_hook(lambda module, args, out: rows.append(len(args[0])))
    for (method, number), options in {
        ("halting", TRAINED): {"adaptive": True, "max_steps": TRAINED},
        ("halting", LONGEST): {"adaptive": True, "max_steps": LONGEST},
        ("convergence", 1): {"patience": 1, "max_steps": LONGEST},
        ("convergence", 2): {"patience": 2, "max_steps": LONGEST},
    }.items():
        rows.clear()
        alone = solve(model, examples.inputs.long(), **options)
        assert points[method, number].net_calls == pytest.approx(sum(rows) / N)
        assert points[method, number].accuracy.value == pytest.approx(share_right(examples, alone.answers))
        assert len(set(alone.steps.tolist())) > 1
    handle.remove()


def test_convergence_stops_once_the_answer_has_stayed_the_same():
    model = build()
    inputs = questions(model).inputs.long()
    full = solve(model, inputs, max_steps=LONGEST, keep_steps=True).step_answers
    for patience in (1, 2, 3):
        found = solve(model, inputs, patience=patience, max_steps=LONGEST, keep_steps=True)
        for row in range(N):
            same = [bool((full[row, step] == full[row, step - 1]).all()) for step in range(1, LONGEST)]
            ends = [
                step + 2
                for step in range(len(same))
                if step + 1 >= patience and all(same[step - patience + 1 : step + 1])
            ]
            assert found.steps[row] == (ends[0] if ends else LONGEST)
            assert torch.equal(found.answers[row], full[row, found.steps[row] - 1])
    both = solve(model, inputs, adaptive=True, patience=1, max_steps=LONGEST)
    halting = solve(model, inputs, adaptive=True, max_steps=LONGEST)
    converged = solve(model, inputs, patience=1, max_steps=LONGEST)
    assert torch.equal(both.steps, torch.minimum(halting.steps, converged.steps))
    with pytest.raises(ValueError, match="patience=0"):
        solve(model, inputs, patience=0)


def test_rollouts_are_chosen_by_the_halting_head(measured):
    model, examples, points = measured
    assert points["rollouts", 1].accuracy == points["steps", TRAINED].accuracy
    assert points["rollouts", 1].best_possible is None
    solutions = [solve(model, examples.inputs.long())]
    for number in (1, 2):
        generator = torch.Generator().manual_seed(number)
        starts = [noisy_carry(model, len(part), 4, 0.7, generator) for part in examples.inputs.split(10)]
        parts = [
            solve(model, part.long(), start=start)
            for part, start in zip(examples.inputs.split(10), starts, strict=True)
        ]
        solutions.append(
            replace(
                parts[0],
                answers=torch.cat([part.answers for part in parts]),
                halting_logits=torch.cat([part.halting_logits for part in parts]),
            )
        )
    logits = torch.stack([one.halting_logits[:, -1] for one in solutions], dim=1)
    answers = torch.stack([one.answers for one in solutions], dim=1)
    chosen = answers[torch.arange(N), logits.argmax(dim=1)]
    assert points["rollouts", 3].accuracy.value == pytest.approx(share_right(examples, chosen))
    right = (answers == examples.targets.long()[:, None]).all(dim=2)
    assert points["rollouts", 3].best_possible.value == pytest.approx(float(right.any(dim=1).double().mean()))
    assert points["rollouts", 3].net_calls == pytest.approx(3 * points["rollouts", 1].net_calls)
    assert set(logits.argmax(dim=1).tolist()) == {0, 1, 2}, "the test needs every rollout to be chosen"


@pytest.mark.parametrize("learned_init", [False, True])
def test_noise_reaches_the_recursion_and_has_its_strength(learned_init):
    model = build(learned_init)
    inputs = questions(model).inputs.long()
    clean = solve(model, inputs).logits
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(solve(model, inputs, start=noisy_carry(model, N, 4, 0.0, generator)).logits, clean)
    start = noisy_carry(model, 400, 4, 0.7, generator)
    for found, initial in ((start.y, model.recursion.y_init), (start.z, model.recursion.z_init)):
        assert (found - initial).std().item() == pytest.approx(0.7, rel=0.02)
    noisy = solve(model, inputs, start=noisy_carry(model, N, 4, 0.7, generator)).logits
    assert (noisy - clean).abs().amax(dim=(1, 2)).min() > 1e-3


def test_views_vote_and_one_view_is_the_question_itself(measured):
    model, examples, points = measured
    assert points["votes", 1].accuracy == points["steps", TRAINED].accuracy
    inputs = examples.inputs.long()
    first, second = solve(model, inputs).answers, solve(model, inputs.flip(1)).answers.flip(1)
    # Read from behind twice: the two agree and outvote the question itself.
    assert points["votes", 3].accuracy.value == pytest.approx(share_right(examples, second))
    right = [(one == examples.targets.long()).all(dim=1) for one in (first, second)]
    assert points["votes", 3].best_possible.value == pytest.approx(float((right[0] | right[1]).double().mean()))
    assert not torch.equal(right[0], right[1]), "the test needs views that differ"


def test_nothing_on_the_frontier_is_beaten_and_all_else_is(measured):
    points = list(measured[2].values())
    for point in points:
        beaten = any(
            other.accuracy.value >= point.accuracy.value
            and other.net_calls <= point.net_calls
            and (other.accuracy.value, -other.net_calls) != (point.accuracy.value, -point.net_calls)
            for other in points
        )
        assert point.frontier == (not beaten)


def test_what_is_right_by_the_rules_counts_where_there_are_rules():
    model = build()
    spec = replace(SPEC, valid=lambda inputs, answers: inputs[:, 0] > 3, headline="valid_optimal")
    spending = Spending(steps=[], patience=[], rollouts=[2], noise=0.5, views=[])
    examples = questions(model)
    points = scale_compute(model, examples, spec, spending, symmetric=None, batch_size=10)
    expected = float((examples.inputs[:, 0] > 3).double().mean())
    assert [point.accuracy.value for point in points] == pytest.approx([expected] * 3)


@pytest.mark.parametrize("size", [4, 6, 9])
def test_a_view_of_a_sudoku_is_a_sudoku_and_is_led_back(size):
    task = SudokuTask(size)
    if size == 9:
        examples = task.packaged()[0].select(range(8))
    else:
        config = SudokuConfig(source="generated", size=size, num_train=8, num_val=4, num_test=4)
        examples = task.generate(config)[0]["train"]
    inputs, targets = examples.inputs, examples.targets
    shown, undo = task.view(inputs, torch.Generator().manual_seed(0))
    solved, _ = task.view(targets, torch.Generator().manual_seed(0))
    task.validate(shown, solved)
    assert not torch.equal(shown, inputs)
    assert torch.equal(undo(solved.long()), targets.long()) and torch.equal(undo(shown.long()), inputs.long())
    both = task.augment(inputs, targets, torch.Generator().manual_seed(0))
    assert torch.equal(both[0], shown) and torch.equal(both[1], solved)


def test_a_view_of_a_maze_is_a_maze_and_is_led_back():
    task = MazeTask(6)
    sets, _ = task.generate(MazeConfig(size=6, min_path=5, num_train=40, num_val=4, num_test=4))
    inputs, targets = sets["train"].inputs, sets["train"].targets
    shown, undo = task.view(inputs.long(), torch.Generator().manual_seed(0))
    moved, _ = task.view(targets.long(), torch.Generator().manual_seed(0))
    assert task.valid_optimal(shown, moved).all()
    assert torch.equal(undo(shown), inputs.long()) and torch.equal(undo(moved), targets.long())
    assert torch.equal(task.augment(inputs, targets, torch.Generator().manual_seed(0))[0], shown.to(torch.uint8))
    assert len(np.unique((shown != inputs).sum(dim=1))) > 4
