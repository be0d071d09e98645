"""Several views of one question, several answers: the candidates that most views agree on are the attempts.

The order is that of the public ARC scores: more votes first, then the higher mean probability of being right.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Candidate:
    """An answer that at least one view gave."""

    grid: np.ndarray  # (h, w)
    votes: int
    confidence: float  # mean probability of being right, over the views that gave it


def rank_candidates(answers: Sequence[np.ndarray], confidences: Sequence[float]) -> list[Candidate]:
    """Return the different answers of the views of one question, best first; ties keep the order of the views."""
    found: dict[tuple[tuple[int, ...], bytes], list[int]] = defaultdict(list)
    for row, answer in enumerate(answers):
        found[answer.shape, answer.tobytes()].append(row)
    candidates = [
        Candidate(answers[rows[0]], len(rows), sum(confidences[row] for row in rows) / len(rows))
        for rows in found.values()
    ]
    return sorted(candidates, key=lambda one: (-one.votes, -one.confidence))


def solved_within(candidates: Sequence[Candidate], target: np.ndarray, attempts: int) -> bool:
    """Tell whether one of the first `attempts` candidates is the target, size and every cell."""
    return any(np.array_equal(candidate.grid, target) for candidate in candidates[:attempts])


def score_puzzles(solved: Sequence[bool], puzzles: Sequence[str]) -> dict[str, float]:
    """Return for each puzzle the share of its questions that are solved; a score is the mean over puzzles."""
    by_puzzle: dict[str, list[bool]] = defaultdict(list)
    for right, puzzle in zip(solved, puzzles, strict=True):
        by_puzzle[puzzle].append(right)
    return {puzzle: sum(rows) / len(rows) for puzzle, rows in by_puzzle.items()}
