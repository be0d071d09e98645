import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "data")]
from arc_cases import config  # noqa: E402

from titans_trm.data.arc.task import ArcTask  # noqa: E402
from titans_trm.data.load import load_data  # noqa: E402
from titans_trm.evaluation.attempts import model_solver, score_attempts  # noqa: E402
from titans_trm.models.config import BackboneConfig, HaltingConfig, MemoryConfig, RecursionConfig, TitansTRMConfig  # noqa: E402
from titans_trm.models.titans_trm import TitansTRM  # noqa: E402


@pytest.fixture
def arc(tmp_path):
    given = config(tmp_path)
    return ArcTask.from_config(given), load_data(given)


def knows(share_of_views: float):
    """Return a solver that is right in the first views of each question and says one wrong grid in the others."""

    def answer(batch):
        position = torch.arange(len(batch)) % 6
        right = position < round(6 * share_of_views)
        targets = batch.targets.clamp(min=0)
        wrong = torch.zeros_like(targets)
        wrong[:, 0] = 2  # a single cell of colour 0, which every view leaves as it is
        return torch.where(right[:, None], targets, wrong), torch.where(right, 0.9, 0.2)

    return answer


@pytest.mark.parametrize(("share", "expected"), [(1.0, (1.0, 1.0)), (2 / 6, (0.0, 1.0)), (0.0, (0.0, 0.0))])
def test_answers_are_turned_back_voted_on_and_scored_by_attempt(arc, share, expected):
    task, data = arc
    seen = []
    scores = score_attempts(task, data.test(), knows(share), views=6, batch_size=12, on_batch=seen.append)
    assert (scores["pass_at_1"].value, scores["pass_at_2"].value) == expected
    assert sum(seen) == 6 * len(data.test())


def test_a_score_is_the_mean_over_puzzles_with_an_interval(arc):
    task, data = arc
    name = data.test().sources[0]

    def one_puzzle(batch):
        targets = batch.targets.clamp(min=0)
        mine = torch.tensor([data.test().sources[int(row) // 6] == name for row in batch.indices])
        return torch.where(mine[:, None], targets, torch.ones_like(targets)), torch.full((len(batch),), 0.5)

    first = score_attempts(task, data.test(), one_puzzle, views=6, batch_size=48)["pass_at_1"]
    assert first.value == 0.25  # one puzzle of four
    assert first.ci_low <= 0.25 <= first.ci_high < 1.0


def test_a_model_answers_all_views_with_the_ids_of_its_embeddings(arc):
    task, data = arc
    model = TitansTRM(
        TitansTRMConfig(
            vocab_size=12,
            seq_len=900,
            num_puzzle_ids=data.spec.num_puzzle_ids,
            width=8,
            backbone=BackboneConfig(num_blocks=1, num_heads=1, mlp_hidden=8, gate="attention_only"),
            memory=MemoryConfig(num_heads=1),
            recursion=RecursionConfig(num_latent_steps=1, num_recursions=1),
            halting=HaltingConfig(max_supervision_steps=1),
        )
    )
    batch = data.test().batch([0, 1])
    answers, right = model_solver(model)(batch)
    assert answers.shape == (2, 900) and ((right > 0) & (right < 1)).all()
    scores = score_attempts(task, data.val, model_solver(model), views=2, batch_size=4)
    assert all(score.value == 0.0 for score in scores.values())
