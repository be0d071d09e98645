import numpy as np

from titans_trm.evaluation.voting import rank_candidates, score_puzzles, solved_within

A, B, C = np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), np.ones((2, 3), np.uint8)


def test_votes_come_before_confidence_and_shape_makes_a_difference():
    ranked = rank_candidates([B, A, C, A, B], [0.9, 0.2, 1.0, 0.4, 0.7])
    assert [(one.grid.shape, one.votes, round(one.confidence, 6)) for one in ranked] == [
        ((3, 2), 2, 0.8), ((2, 3), 2, 0.3), ((2, 3), 1, 1.0),
    ]  # fmt: skip


def test_an_attempt_counts_only_among_the_first():
    ranked = rank_candidates([A, A, B, B, B, C], [0.5] * 6)
    assert solved_within(ranked, B, 1)
    assert not solved_within(ranked, A, 1) and solved_within(ranked, A, 2)
    assert not solved_within(ranked, C, 2)


def test_a_puzzle_scores_the_share_of_its_questions():
    assert score_puzzles([True, False, True], ["p", "p", "q"]) == {"p": 0.5, "q": 1.0}
