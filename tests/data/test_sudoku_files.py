import gzip
import os
import time

import numpy as np
import pytest
from sudoku_cases import ANSWER, HEADER, QUESTION, puzzles, row, write_csv

from titans_trm.data.load import read_examples
from titans_trm.data.sudoku.config import SudokuConfig
from titans_trm.errors import InputError

GOOD = f"own,{QUESTION},{ANSWER},7"


def read(path, tmp_path, **options):
    return read_examples(str(path), SudokuConfig(cache_dir=str(tmp_path / "cache"), **options))


def refusal(path, tmp_path, **options) -> str:
    with pytest.raises(InputError) as caught:
        read(path, tmp_path, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("blank", [".", "0"])
def test_plain_and_packed_files_with_either_blank_read_the_same(tmp_path, name, blank):
    path = write_csv(tmp_path / name, [GOOD.replace(".", blank), ""])
    examples, entries = read(path, tmp_path)
    assert examples.inputs[0].tolist() == [1 if c == "." else int(c) + 1 for c in QUESTION]
    assert examples.targets[0].tolist() == [int(c) + 1 for c in ANSWER]
    assert (examples.sources, examples.ratings.tolist()) == (["own"], [7])
    assert entries["uniqueness_checked"] == entries["rows"] == 1


def test_windows_line_ends_and_byte_order_mark_are_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\n{GOOD}\r\n".encode())
    assert len(read(path, tmp_path)[0]) == 1


@pytest.mark.parametrize("size", [4, 6])
def test_small_sizes_are_read(tmp_path, size):
    block = puzzles(size, 20)
    unique = {row(p, s) for p, s in zip(block.puzzles, block.solutions, strict=True)}
    path = write_csv(tmp_path / "a.csv", sorted(unique))
    assert len(read(path, tmp_path, size=size, source="generated")[0]) == len(unique)


def swapped(grid: str, at: int, value: str) -> str:
    return grid[:at] + value + grid[at + 1 :]


UNSOLVABLE = "12345678." + "." * 44 + "9" + "." * 27  # the 9 below leaves row 1 without one
AMBIGUOUS = "." * 70 + ANSWER[70:]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (f"own,{QUESTION[:-1]},{ANSWER},0", "question has 80 characters, not 81"),
        (f"own,{QUESTION},{ANSWER}1,0", "answer has 82 characters"),
        (f"own,{swapped(QUESTION, 2, 'x')},{ANSWER},0", "illegal character 'x' at position 3"),
        (f"own,{QUESTION},{swapped(ANSWER, 4, 'é')},0", "illegal character 'é' at position 5"),
        (f"own,{QUESTION},{ANSWER},hard", "rating 'hard' is not a whole number"),
        (f"own,{QUESTION},{ANSWER},-1", "rating '-1'"),
        (f"own,{QUESTION},{ANSWER},99999999999", "rating '99999999999'"),
        (f"own,{QUESTION},{ANSWER}", "has 3 columns, not 4"),
        (f"own,{QUESTION},{ANSWER},0,x", "has 5 columns, not 4"),
        (f"own,{swapped(QUESTION, 2, '5')},{ANSWER},0", "question has 5 twice in row 1"),
        (f"own,{swapped(QUESTION, 18, '7')},{ANSWER},0", "question has 7 twice in column 1"),
        (f"own,{swapped(QUESTION, 10, '8')},{ANSWER},0", "question has 8 twice in box 1"),
        (f"own,{QUESTION},{'1' + ANSWER[1:]},0", "answer has 1 at row 1, column 1, where the question has 5"),
        (f"own,{QUESTION},{swapped(ANSWER, 2, '5')},0", "not a valid grid: 5 twice in row 1"),
        (f"own,{QUESTION},{swapped(ANSWER, 2, '.')},0", "answer has a blank cell"),
        (f"own,{UNSOLVABLE},{ANSWER},0", "question has no solution"),
        (f"own,{AMBIGUOUS},{ANSWER},0", "question has several solutions"),
        (f"own,{AMBIGUOUS},{swapped(ANSWER, 2, '5')},0", "; the question has several solutions"),
        (GOOD, "question repeats that of line 2"),
    ],
)
def test_a_bad_row_is_named_with_file_line_and_reason(tmp_path, bad, reason):
    path = write_csv(tmp_path / "bad.csv", [GOOD, bad])
    message = refusal(path, tmp_path)
    assert message.startswith(f"{path}: line 3: ")
    assert "1 bad row of 2" in message
    assert reason in message
    assert "\n" not in message


def test_five_bad_rows_are_shown_and_the_others_counted(tmp_path):
    bad = [f"own,{QUESTION},{ANSWER},x"] * 4 + [f"own,{swapped(QUESTION, 2, '5')},{ANSWER},0"] * 3
    message = refusal(write_csv(tmp_path / "bad.csv", [GOOD, *bad]), tmp_path)
    assert "7 bad rows of 8" in message
    assert message.count("line ") == 5
    assert message.endswith("and 2 more")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (HEADER.encode() + b"\n", "header but no rows"),
        (b"question,answer\n", "add source, rating"),
        (b"source,question,answer,rating,extra\n", "exactly these four columns"),
        (HEADER.encode() + b"\nown,\xff", "line 2: byte 0xff is not UTF-8"),
        (HEADER.encode() + b'\nown,"12', "line 2: not valid CSV"),
    ],
)
def test_a_file_that_is_no_puzzle_file_is_refused(tmp_path, content, reason):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    message = refusal(path, tmp_path)
    assert str(path) in message
    assert reason in message


def test_damaged_gzip_files_are_refused(tmp_path):
    path = tmp_path / "bad.csv.gz"
    packed = gzip.compress(f"{HEADER}\n{GOOD}\n".encode())
    for content, reason in [
        (packed[:-12], "truncated"),
        (packed[:20] + b"\xff" * 20 + packed[40:], "damaged"),
        (b"plain", "is not gzip"),
    ]:
        path.write_bytes(content)
        assert reason in refusal(path, tmp_path)


def test_files_that_cannot_be_opened_are_refused(tmp_path):
    assert "file not found" in refusal(tmp_path / "none.csv", tmp_path)
    assert "is a folder" in refusal(tmp_path, tmp_path)
    assert "cannot be read" in refusal("x" * 5000, tmp_path)
    locked = tmp_path / "locked.csv"
    locked.write_text(HEADER)
    locked.chmod(0)
    if not os.access(locked, os.R_OK):
        assert "permission denied" in refusal(locked, tmp_path)


def test_a_file_of_another_size_says_which_size_is_set(tmp_path):
    block = puzzles(4, 1)
    path = write_csv(tmp_path / "a.csv", [row(block.puzzles[0], block.solutions[0])])
    assert "16 characters, not 81 (data.size=9)" in refusal(path, tmp_path)


def test_a_sample_checks_fewer_rows_and_says_how_many(tmp_path):
    block = puzzles(9, 40)
    rows = [row(p, s) for p, s in zip(block.puzzles, block.solutions, strict=True)]
    path = write_csv(tmp_path / "a.csv", rows)
    assert read(path, tmp_path, verify="sample", verify_sample=10)[1]["uniqueness_checked"] == 10
    assert read(path, tmp_path, verify_all_up_to=39, verify_sample=10)[1]["uniqueness_checked"] == 10
    assert read(path, tmp_path, verify="full", verify_all_up_to=0)[1]["uniqueness_checked"] == 40


def test_a_checked_file_is_read_from_the_cache_and_a_changed_one_anew(tmp_path):
    path = write_csv(tmp_path / "a.csv", [GOOD])
    first, _ = read(path, tmp_path)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*")}
    time.sleep(0.01)
    again, _ = read(path, tmp_path)
    assert (again.sha256, again.keys, again.sources) == (first.sha256, first.keys, first.sources)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*")} == stamps
    write_csv(tmp_path / "a.csv", [GOOD.replace(",7", ",8")])
    assert read(path, tmp_path)[0].ratings.tolist() == [8]


def test_every_row_keeps_its_place(tmp_path):
    block = puzzles(9, 30)
    rows = [row(p, s, f"s{i % 3}", i) for i, (p, s) in enumerate(zip(block.puzzles, block.solutions, strict=True))]
    path = write_csv(tmp_path / "a.csv.gz", rows)
    for examples in (read(path, tmp_path)[0], read(path, tmp_path)[0]):
        assert np.array_equal(examples.inputs.numpy() - 1, block.puzzles)
        assert examples.ratings.tolist() == list(range(30))
        assert examples.sources == [f"s{i % 3}" for i in range(30)]
