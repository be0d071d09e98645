"""`titans-trm data`: what a user types, what is said, and which exit status ends it."""

import gzip
import json
import os
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent / "data")]
from arc_cases import folder, puzzle  # noqa: E402
from sudoku_cases import puzzles, row, transform, write_csv  # noqa: E402

from titans_trm.cli import main  # noqa: E402
from titans_trm.data.sudoku.geometry import Geometry  # noqa: E402

SMALL = ["data.num_train=80", "data.num_val=10", "data.num_test=10"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TITANS_TRM_DATA", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["data", *map(str, words)])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the message of a command that must end with status 2; it is one sentence under one `error:`."""
    status, out, err = run(capsys, *words)
    assert status == 2
    assert err.startswith("error: ") and "Traceback" not in err + out
    return err.removeprefix("error: ").strip()


def test_prepare_then_verify_and_prepare_again_finds_the_same(tmp_path, capsys):
    status, out, _ = run(capsys, "prepare", "sudoku_4x4", *SMALL)
    assert status == 0
    assert "train: 80 examples" in out and "CC0-1.0" in out
    (manifest,) = (tmp_path / "cache" / "prepared").iterdir()
    first = json.loads(manifest.read_text())
    assert {
        "task",
        "generator_version",
        "reader_version",
        "licence",
        "seed",
        "split_rule",
        "split_salt",
        "splits",
    } <= set(first)
    status, out, _ = run(capsys, "verify", "sudoku_4x4", *SMALL)
    assert status == 0
    assert "15 files" in out and "every byte as it was written" in out
    run(capsys, "prepare", "sudoku_4x4", *SMALL)
    assert json.loads(manifest.read_text()) == first


def test_a_flipped_byte_is_named_by_verify(tmp_path, capsys):
    run(capsys, "prepare", "sudoku_4x4", *SMALL)
    path = next((tmp_path / "cache").rglob("train.targets.npy"))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    message = refused(capsys, "verify", "sudoku_4x4", *SMALL)
    assert message.startswith(f"{path}: the bytes have changed") and "\n" not in message


def test_verify_says_when_nothing_was_prepared_or_the_manifest_no_longer_fits(tmp_path, capsys):
    assert "run prepare first" in refused(capsys, "verify", "sudoku_4x4", *SMALL)
    run(capsys, "prepare", "sudoku_4x4", *SMALL)
    (manifest,) = (tmp_path / "cache" / "prepared").iterdir()
    values = json.loads(manifest.read_text())
    values["splits"]["train"]["sha256"] = "0"
    manifest.write_text(json.dumps(values))
    assert "(splits differ)" in refused(capsys, "verify", "sudoku_4x4", *SMALL)
    manifest.write_text("{")
    assert "is damaged; run prepare again" in refused(capsys, "verify", "sudoku_4x4", *SMALL)


def sudoku_file(path: Path, count: int = 30) -> str:
    block = puzzles(9, count)
    return write_csv(path, [row(p, s) for p, s in zip(block.puzzles, block.solutions, strict=True)])


def test_bad_bytes_end_with_one_clear_line_and_status_2(tmp_path, capsys):
    good = Path(sudoku_file(tmp_path / "good.csv")).read_text()
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(good.encode())[:-100])
    column = tmp_path / "column.csv"
    column.write_text("\n".join(line.rpartition(",")[0] for line in good.splitlines()))
    latin = tmp_path / "latin.csv"
    latin.write_bytes(good.replace("own,", "é,", 1).encode("latin-1"))
    for path, words in {
        cut: "the gzip file is truncated; copy or download it again.",
        column: "the header is 'source,question,answer'",
        latin: "line 2: byte 0xe9 is not UTF-8; save the file as UTF-8.",
        tmp_path: "is a folder, not a file",
    }.items():
        message = refused(capsys, "prepare", "sudoku_9x9", f"data.train_file={path}")
        assert message.startswith(str(path)) and words in message and "\n" not in message


def test_an_arc_grid_over_30_cells_is_named(tmp_path, capsys):
    broken = puzzle(0)
    broken["test"][0]["output"] = [[1] * 31] * 2
    path = folder(tmp_path / "arc", {"p": puzzle(1), "q": broken})
    message = refused(capsys, "prepare", "arc1", f"data.train_file={path}")
    assert "puzzle q: test pair 0: output: is 2 x 31 cells; a grid has at most 30 x 30." in message


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="needs a folder that not even root can write")
def test_a_folder_that_cannot_be_written_is_named(capsys):
    message = refused(capsys, "prepare", "sudoku_4x4", *SMALL, "data.cache_dir=/sys/kernel/data")
    assert message.startswith("/sys/kernel/data: cannot be written (") and "data.cache_dir" in message
    assert "\n" not in message


def test_a_planted_symmetric_copy_is_shown_with_rows_and_status_3(tmp_path, capsys):
    import numpy as np

    block = puzzles(4, 40)
    pairs = [[p, s] for p, s in zip(block.puzzles, block.solutions, strict=True)]
    train = write_csv(tmp_path / "train.csv", [row(*pair) for pair in pairs[:30]])
    copy = transform(pairs[7], Geometry.of(4), np.random.default_rng(0))
    test = write_csv(tmp_path / "test.csv", [row(*pair) for pair in [*pairs[30:], copy]])
    overrides = (f"data.train_file={train}", f"data.test_file={test}")
    status, out, _ = run(capsys, "leakage", "sudoku_4x4", *overrides, "--json", tmp_path / "report.json")
    assert status == 3
    assert "1 group is in both, the same up to symmetry (1 and 1 examples)" in out
    assert "= row 10 (own)" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert [one["groups"] for one in report] == [0, 1, 0] or [one["groups"] for one in report] == [0, 0, 1]
    status, out, _ = run(capsys, "leakage", "sudoku_4x4", *overrides, "data.leakage=remove")
    assert (status, "training drops these examples" in out) == (0, True)
    status, out, _ = run(capsys, "leakage", "sudoku_4x4", "--between", train, test)
    assert status == 3 and "row 7 (own) = row 10 (own)" in out


def test_a_clean_split_shares_nothing(capsys):
    status, out, _ = run(capsys, "leakage", "sudoku_4x4", *SMALL)
    assert (status, out.count("no group in both")) == (0, 3)


def test_audit_writes_json_and_a_page_of_plots(tmp_path, capsys):
    status, out, _ = run(capsys, "audit", "sudoku_4x4", *SMALL)
    assert status == 0
    report = json.loads((tmp_path / "audit" / "sudoku_4x4" / "audit.json").read_text())
    assert sum(report["splits"]["train"]["label_shares"]) == pytest.approx(1.0)
    assert (tmp_path / "audit" / "sudoku_4x4" / "audit.png").read_bytes().startswith(b"\x89PNG")
    assert out.strip().endswith("audit.png")
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(capsys, "audit", "sudoku_4x4", *SMALL, "--out", tmp_path / "file" / "x")


def test_stats_prints_counts_shares_and_whether_the_generator_keeps_up(tmp_path, capsys, monkeypatch):
    from titans_trm.commands import data_stats

    monkeypatch.setattr(data_stats, "_SECONDS", 0.05)
    monkeypatch.setattr(data_stats, "_GENERATED", 16)
    status, out, _ = run(capsys, "stats", "sudoku_4x4", *SMALL)
    assert status == 0
    for words in ("target token", "25.00 %", "generator: ", "stream: ", "timed here: trm_nano", "wanted: 20"):
        assert words in out
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text('{"examples_finished": 500, "wall_seconds": 100000}')
    _, out, _ = run(capsys, "stats", "sudoku_4x4", *SMALL, "--run", tmp_path / "run")
    assert "training: 0.0 examples per second, measured over the run" in out and "keeps up" in out
    assert "has no summary.json" in refused(capsys, "stats", "sudoku_4x4", *SMALL, "--run", tmp_path)
    _, out, _ = run(capsys, "stats", "sudoku_9x9")
    assert "generator: " not in out


def test_an_unknown_data_set_is_answered_with_those_there_are(capsys):
    message = refused(capsys, "prepare", "sudoku_9x8")
    assert "Did you mean sudoku_9x9?" in message
    assert "data.nun_train is not a key. Did you mean data.num_train?" in refused(
        capsys, "prepare", "sudoku_4x4", "data.nun_train=3"
    )
