"""ARC grids as tokens: 0 PAD, 1 EOS, colour + 2; at most 30 x 30 cells, closed by a row and a column of EOS.

The eight symmetries of the square are numbered as in the public code of TRM: 0 identity, 1-3 quarter turns
counter-clockwise, 4 left-right, 5 up-down, 6 transpose, 7 the other diagonal.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SIDE = 30  # of the canvas, and the most cells along a side of a grid
EOS = 1
COLOUR = 2  # token of colour 0
NUM_COLOURS = 10
VOCAB_SIZE = COLOUR + NUM_COLOURS
DIHEDRAL_INVERSE = np.array([0, 3, 2, 1, 4, 5, 6, 7])

# Cell (i, j) of the image comes from row (j if swapped else i), counted from the end if flipped; columns likewise.
_SWAPPED = torch.tensor([False, True, False, True, False, False, True, True])
_ROW_FLIPPED = torch.tensor([False, False, True, True, False, True, False, True])
_COLUMN_FLIPPED = torch.tensor([False, True, True, False, True, False, False, True])

Pair = tuple[np.ndarray, np.ndarray]  # input and output grid, each (h, w) uint8 with colours 0..9


def transform(grid: np.ndarray, dihedral: int, colours: np.ndarray | None = None) -> np.ndarray:
    """Return a grid `(h, w)` recoloured by `colours` (10,), then moved by a symmetry of the square."""
    grid = grid if colours is None else colours[grid]
    if _SWAPPED[dihedral]:
        grid = grid.T
    if _ROW_FLIPPED[dihedral]:
        grid = grid[:, ::-1] if _SWAPPED[dihedral] else grid[::-1]
    if _COLUMN_FLIPPED[dihedral]:
        grid = grid[::-1] if _SWAPPED[dihedral] else grid[:, ::-1]
    return np.ascontiguousarray(grid)


def invert(grid: np.ndarray, dihedral: int, colours: np.ndarray) -> np.ndarray:
    """Undo `transform`."""
    return transform(np.argsort(colours).astype(np.uint8)[grid], int(DIHEDRAL_INVERSE[dihedral]))


def encode(grids: Sequence[np.ndarray]) -> Tensor:
    """Return grids as `(n, 900)` uint8 tokens, each at the top left of its canvas."""
    canvas = np.zeros((len(grids), SIDE, SIDE), dtype=np.uint8)
    for row, grid in zip(canvas, grids, strict=True):
        height, width = grid.shape
        row[:height, :width] = grid + COLOUR
        if height < SIDE:
            row[height, :width] = EOS
        if width < SIDE:
            row[:height, width] = EOS
    return torch.from_numpy(canvas.reshape(len(grids), -1))


def decode(tokens: Tensor) -> list[np.ndarray]:
    """Return the grid in each `(n, 900)` canvas: the largest rectangle of colours at its top left, maybe empty."""
    canvas = tokens.reshape(-1, SIDE, SIDE).numpy()
    coloured = (canvas >= COLOUR) & (canvas < VOCAB_SIZE)
    runs = np.logical_and.accumulate(coloured, axis=2).sum(axis=2)  # leading colours of each row
    widths = np.minimum.accumulate(runs, axis=1)
    heights = (widths * np.arange(1, SIDE + 1)).argmax(axis=1) + 1
    return [
        (one[:height, : width[height - 1]] - COLOUR).astype(np.uint8)
        for one, height, width in zip(canvas, heights, widths, strict=True)
    ]


def move(tokens: Tensor, dihedral: Tensor, colours: Tensor, offsets: Tensor) -> Tensor:
    """Return top-left canvases `(B, 900)` uint8 recoloured, moved by a symmetry, and shifted.

    Args:
        tokens: (B, 900) uint8, as `encode` makes them.
        dihedral: (B,) int64, 0..7.
        colours: (B, 10) new colour of each colour.
        offsets: (B, 2) int64, rows and columns by which the grid moves away from the top left; it must still fit.
    """
    heights, widths = sizes(tokens)
    labels = torch.cat([torch.zeros_like(colours[:, :COLOUR]), colours + COLOUR], dim=1).to(torch.uint8)
    swapped, flip_rows, flip_columns = _SWAPPED[dihedral], _ROW_FLIPPED[dihedral], _COLUMN_FLIPPED[dihedral]
    new_heights, new_widths = torch.where(swapped, widths, heights), torch.where(swapped, heights, widths)
    lines = torch.arange(SIDE)
    i = (lines[None] - offsets[:, :1])[:, :, None]  # (B, 30, 1) row within the image
    j = (lines[None] - offsets[:, 1:])[:, None, :]  # (B, 1, 30) column within the image
    in_rows, in_columns = (i >= 0) & (i < _wide(new_heights)), (j >= 0) & (j < _wide(new_widths))
    rows = torch.where(_wide(swapped), j, i)
    rows = torch.where(_wide(flip_rows), _wide(heights) - 1 - rows, rows)
    columns = torch.where(_wide(swapped), i, j)
    columns = torch.where(_wide(flip_columns), _wide(widths) - 1 - columns, columns)
    cells = (rows * SIDE + columns).clamp(0, SIDE * SIDE - 1).flatten(1)
    inside = (in_rows & in_columns).flatten(1)
    border = ((i == _wide(new_heights)) & in_columns) | ((j == _wide(new_widths)) & in_rows)
    moved = labels.gather(1, tokens.gather(1, cells).long())
    return torch.where(inside, moved, border.flatten(1).to(torch.uint8))  # a border cell is EOS = 1, the rest PAD = 0


def is_grid(tokens: Tensor) -> Tensor:
    """Tell which canvases `(n, 900)` hold exactly one grid, wherever it lies; (n,) bool."""
    canvas = tokens.reshape(-1, SIDE, SIDE)
    coloured = canvas >= COLOUR
    offsets = torch.stack([coloured.any(dim).int().argmax(1) for dim in (2, 1)], dim=1)  # first row, first column
    rows, columns = ((torch.arange(SIDE) + offset[:, None]) % SIDE for offset in offsets.unbind(1))
    at_corner = canvas[torch.arange(len(canvas))[:, None, None], rows[:, :, None], columns[:, None, :]].flatten(1)
    found = (at_corner[:, 0] >= COLOUR) & (at_corner[:, 0] < VOCAB_SIZE)
    at_corner[:, 0] = torch.where(found, at_corner[:, 0], COLOUR)  # something to decode
    still, same = torch.zeros(len(canvas), dtype=torch.int64), torch.arange(NUM_COLOURS).expand(len(canvas), -1)
    return found & (move(encode(decode(at_corner)), still, same, offsets) == tokens).all(dim=1)


def sizes(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return heights and widths `(B,)` int64 of the grids of top-left canvases `(B, 900)`."""
    canvas = tokens.reshape(-1, SIDE, SIDE) >= COLOUR
    return canvas[:, :, 0].sum(1), canvas[:, 0].sum(1)


def pair_key(pair: Pair) -> str:
    """Return the key of an input and its output, equal for symmetric copies: any dihedral image, any colours 1..9."""
    forms = []
    for dihedral in range(8):
        first, second = (transform(grid, dihedral) for grid in pair)
        forms.append(bytes([*first.shape, *second.shape]) + _relabelled(first.tobytes() + second.tobytes()))
    return hashlib.sha256(b"arc" + min(forms)).hexdigest()


def _relabelled(cells: bytes) -> bytes:
    """Return cells with colours 1..9 renamed in the order in which they first occur; 0, the background, stays."""
    names = bytearray(256)
    for number, colour in enumerate((colour for colour in dict.fromkeys(cells) if colour), start=1):
        names[colour] = number
    return cells.translate(bytes(names))


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None]
