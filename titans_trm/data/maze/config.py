"""Configuration of the task `maze`."""

from dataclasses import dataclass
from typing import Literal

from titans_trm.data.config import CountFields, FileFields, at_least, one_of

_SIZES = (4, 64)  # a row of cells is kept in 64 bits


@dataclass(frozen=True, kw_only=True)
class MazeConfig(CountFields, FileFields):
    """Square mazes of random walls: generated, or from CSV files such as the public Maze-Hard set."""

    task: Literal["maze"] = "maze"
    source: Literal["generated", "file"] = "generated"  # generated: made on first use; file: train_file
    num_train: int = 1_000  # mazes to generate for training, as in Maze-Hard
    num_val: int = 100  # mazes to generate for validation
    num_test: int = 500  # mazes to generate for the test split
    size: int = 30  # cells along a side; sequence length is its square
    walls: tuple[float, float] = (0.27, 0.46)  # least and greatest share of walls, drawn evenly for each maze
    min_path: int = 110  # cells of the shortest path, S and G included; shorter mazes are not used

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("data.source", self.source, ("generated", "file"))
        low, high = _SIZES
        if not low <= self.size <= high:
            raise ValueError(f"data.size={self.size} is out of range; choose {low} to {high} cells along a side.")
        if len(self.walls) != 2 or not 0.0 <= self.walls[0] <= self.walls[1] < 1.0:
            raise ValueError(f"data.walls={list(self.walls)} is not a range of shares; give e.g. [0.27, 0.46].")
        at_least("data.min_path", self.min_path, 2)
        if self.min_path > self.size**2:
            raise ValueError(
                f"data.min_path={self.min_path} is longer than a maze of data.size={self.size} has cells; choose "
                f"{self.size**2} or less."
            )
