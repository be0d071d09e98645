"""ARC puzzles and files that several tests share."""

import json
from pathlib import Path

import numpy as np

from titans_trm.data.arc.config import ArcConfig


def grid(height: int, width: int, seed: int) -> list[list[int]]:
    return np.random.default_rng(seed).integers(0, 10, (height, width)).tolist()


def puzzle(seed: int, demonstrations: int = 3, tests: int = 1) -> dict:
    count = demonstrations + tests
    rng = np.random.default_rng([7, seed])
    sizes = rng.integers(3, 9, (count, 4))
    pairs = [
        {"input": grid(h, w, 100 * seed + 2 * n), "output": grid(i, j, 100 * seed + 2 * n + 1)}
        for n, (h, w, i, j) in enumerate(sizes.tolist())
    ]
    return {"train": pairs[:demonstrations], "test": pairs[demonstrations:]}


def recoloured(value: dict, seed: int = 0, turns: int = 1) -> dict:
    """Turn and recolour every grid of a puzzle: written out independently of the package."""
    colours = np.concatenate([[0], np.random.default_rng(seed).permutation(9) + 1])

    def changed(rows: list[list[int]]) -> list[list[int]]:
        return np.fliplr(np.rot90(colours[np.array(rows)], turns)).tolist()

    return {
        part: [{side: changed(rows) for side, rows in pair.items()} for pair in pairs] for part, pairs in value.items()
    }


def folder(path: Path, puzzles: dict[str, dict]) -> str:
    path.mkdir(parents=True, exist_ok=True)
    for name, value in puzzles.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    return str(path)


def config(tmp_path: Path, train: dict | None = None, test: dict | None = None, **values) -> ArcConfig:
    train = {f"a{seed}": puzzle(seed) for seed in range(10)} if train is None else train
    test = {f"b{seed}": puzzle(seed, tests=2) for seed in range(20, 24)} if test is None else test
    small = {
        "train_file": folder(tmp_path / "train", train),
        "test_file": folder(tmp_path / "test", test),
        "num_augmentations": 5,
        "val_fraction": 0.2,
    }
    return ArcConfig(cache_dir=str(tmp_path / "cache"), **(small | values))
