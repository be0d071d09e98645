"""Shape of a Sudoku: the side of the grid and of its boxes."""

from dataclasses import dataclass

_BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}


@dataclass(frozen=True)
class Geometry:
    """Grid of `size` x `size` cells cut into boxes of `box_rows` x `box_cols`.

    A band is a row of boxes (`box_rows` rows), a stack a column of boxes (`box_cols` columns).
    """

    size: int
    box_rows: int
    box_cols: int

    @classmethod
    def of(cls, size: int) -> "Geometry":
        """Return the geometry of a 4x4 (2x2 boxes), 6x6 (2 rows x 3 columns) or 9x9 (3x3) Sudoku."""
        if size not in _BOXES:
            raise ValueError(f"size={size} is not a supported Sudoku; choose 4, 6 or 9.")
        return cls(size, *_BOXES[size])

    @property
    def cells(self) -> int:
        """Number of cells, size squared."""
        return self.size * self.size

    @property
    def bands(self) -> int:
        """Number of bands."""
        return self.size // self.box_rows

    @property
    def stacks(self) -> int:
        """Number of stacks."""
        return self.size // self.box_cols

    @property
    def square(self) -> bool:
        """Whether boxes are square, so that a transposed grid is a grid again."""
        return self.box_rows == self.box_cols
