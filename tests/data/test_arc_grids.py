import numpy as np
import pytest
import torch

from titans_trm.data.arc.files import Puzzle
from titans_trm.data.arc.grids import DIHEDRAL_INVERSE, decode, encode, invert, move, pair_key, transform
from titans_trm.data.arc.views import ViewTable

ORACLE = [
    lambda a: a,
    np.rot90,
    lambda a: np.rot90(a, 2),
    lambda a: np.rot90(a, 3),
    np.fliplr,
    np.flipud,
    np.transpose,
    lambda a: np.fliplr(np.rot90(a)),
]
RNG = np.random.default_rng(0)


def random_grid(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 10, (height, width)).astype(np.uint8)


def random_colours() -> np.ndarray:
    return np.concatenate([[0], RNG.permutation(9) + 1]).astype(np.uint8)


def canvas(grid: np.ndarray, top: int, left: int) -> np.ndarray:
    """Write a grid with its border of EOS onto a canvas, cell by cell."""
    cells = np.zeros((31, 31), dtype=np.uint8)
    height, width = grid.shape
    cells[top : top + height, left : left + width] = grid + 2
    cells[top + height, left : left + width] = 1
    cells[top : top + height, left + width] = 1
    return cells[:30, :30].reshape(-1)


@pytest.mark.parametrize("dihedral", range(8))
def test_symmetries_are_those_of_the_public_code_and_have_their_inverse(dihedral):
    grid, colours = random_grid(5, 7), random_colours()
    assert (transform(grid, dihedral, colours) == ORACLE[dihedral](colours[grid])).all()
    assert (invert(transform(grid, dihedral, colours), dihedral, colours) == grid).all()
    assert (transform(transform(grid, dihedral), int(DIHEDRAL_INVERSE[dihedral])) == grid).all()


@pytest.mark.parametrize("dihedral", range(8))
@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 9), (30, 30), (30, 2)])
def test_a_canvas_moves_like_its_grid(dihedral, height, width):
    grids = [random_grid(height, width) for _ in range(3)]
    colours = np.stack([random_colours() for _ in grids])
    images = [transform(grid, dihedral, row) for grid, row in zip(grids, colours, strict=True)]
    top, left = 30 - images[0].shape[0], (30 - images[0].shape[1]) // 2
    moved = move(
        encode(grids), torch.full((3,), dihedral), torch.from_numpy(colours).long(), torch.tensor([[top, left]] * 3)
    )
    assert (moved.numpy() == np.stack([canvas(image, top, left) for image in images])).all()


def test_encoding_closes_grids_with_eos_and_decoding_undoes_it():
    grids = [random_grid(*RNG.integers(1, 31, 2)) for _ in range(50)] + [random_grid(30, 30)]
    tokens = encode(grids)
    assert (tokens.numpy() == np.stack([canvas(grid, 0, 0) for grid in grids])).all()
    assert all((a == b).all() for a, b in zip(decode(tokens), grids, strict=True))


def test_a_prediction_is_cropped_to_the_largest_rectangle_of_colours_at_the_top_left():
    tokens = torch.ones(30, 30, dtype=torch.uint8)
    tokens[:2, :9] = 5  # 18 cells
    tokens[2:5, :4] = 6  # 5 x 4 = 20 cells
    tokens[10:, 10:] = 7
    (cropped,) = decode(tokens.reshape(1, -1))
    assert cropped.shape == (5, 4)
    assert decode(torch.ones(1, 900, dtype=torch.uint8))[0].size == 0


def test_a_pair_has_one_key_under_every_symmetry_and_recolouring_and_another_pair_another():
    pair = random_grid(4, 6), random_grid(3, 5)
    keys = {
        pair_key((transform(pair[0], t, c), transform(pair[1], t, c))) for t in range(8) for c in [random_colours()]
    }
    assert keys == {pair_key(pair)}
    assert pair_key((pair[1], pair[0])) not in keys
    changed = pair[1].copy()
    changed[0, 0] = (changed[0, 0] + 1) % 10
    assert pair_key((pair[0], changed)) not in keys


def two_puzzles() -> list[Puzzle]:
    many, few = (random_grid(5, 5), random_grid(2, 3)), (np.zeros((2, 2), np.uint8), np.ones((1, 2), np.uint8))
    return [Puzzle("x/many", [many], [many]), Puzzle("x/few", [few], [few])]


def test_views_are_different_seeded_by_name_and_start_with_the_puzzle_itself():
    puzzles = two_puzzles()
    table = ViewTable.draw(puzzles, 20, seed=0)
    rows = torch.cat([table.dihedral[0, :, None], table.colours[0]], dim=1)
    assert len(rows.unique(dim=0)) == 21
    assert table.dihedral[:, 0].tolist() == [0, 0]
    assert (table.colours[:, 0] == torch.arange(10)).all() and (table.colours[:, :, 0] == 0).all()
    assert (table.colours.sort(dim=2).values == torch.arange(10)).all()
    swapped = ViewTable.draw(puzzles[::-1], 20, seed=0)
    assert torch.equal(swapped.colours[1], table.colours[0])
    assert not torch.equal(ViewTable.draw(puzzles, 20, seed=1).colours, table.colours)
    assert table.num_ids == 43


def test_a_sampled_view_is_the_one_its_id_names_shifted_on_the_canvas():
    table = ViewTable.draw(two_puzzles(), 7, seed=0)
    pair = two_puzzles()[0].train[0]
    inputs, targets = encode([pair[0]]).repeat(200, 1), encode([pair[1]]).repeat(200, 1)
    ids = torch.full((200,), table.first_id(0))
    generator = torch.Generator().manual_seed(0)
    moved, answers, views = table.sample(inputs, targets, ids, generator, untranslated=0.25)
    assert set(views.tolist()) == set(range(1, 9))
    places = set()
    for row in range(200):
        view = int(views[row]) - 1
        colours = table.colours[0, view].numpy().astype(np.uint8)
        images = [transform(grid, int(table.dihedral[0, view]), colours) for grid in pair]
        cells = (moved[row].reshape(30, 30) >= 2).nonzero()
        top, left = cells.min(dim=0).values.tolist()
        places.add((top, left))
        assert (moved[row].numpy() == canvas(images[0], top, left)).all()
        assert (answers[row].numpy() == canvas(images[1], top, left)).all()
    assert len(places) > 100
    assert (moved[:, 0] >= 2).sum() > 25  # a quarter at the top left


def test_an_unknown_puzzle_stays_as_it_is():
    table = ViewTable.draw(two_puzzles(), 7, seed=0)
    tokens = encode([random_grid(3, 4)]).repeat(20, 1)
    generator = torch.Generator().manual_seed(0)
    moved, _, ids = table.sample(tokens, tokens, torch.zeros(20, dtype=torch.int64), generator, untranslated=1.0)
    assert torch.equal(moved, tokens)
    assert ids.unique().tolist() == [0]
