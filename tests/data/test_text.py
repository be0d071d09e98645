"""Text on bytes: each is predicted once, documents stay whole, what train knows is not scored, bad files are named."""

import gzip
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from titans_trm.data.load import load_data, read_examples
from titans_trm.data.text.config import TextConfig
from titans_trm.data.text.corpus import Document, stdlib_documents
from titans_trm.data.text.overlap import KnownRuns
from titans_trm.data.text.task import TextTask
from titans_trm.errors import InputError

WORDS = [word for line in Path(__file__).read_text().splitlines() for word in line.split() if word.isalpha()]


def prose(seed: int, count: int = 600) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count)) + "\n"


def write(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def config(tmp_path: Path, **values) -> TextConfig:
    return TextConfig(cache_dir=str(tmp_path / "cache"), **({"seq_len": 64} | values))


def joined(targets: torch.Tensor) -> bytes:
    return bytes(targets[targets > 0].tolist())


def test_every_byte_is_a_target_once_and_the_input_is_the_byte_before_it():
    text = prose(0, 50).encode() + "naïve – 你好".encode()
    documents = [Document("a", "a", text), Document("b", "b", b"short")]
    examples = TextTask(64).windows("x", documents)
    assert joined(examples.targets) == text + b"short"
    first = examples.select([row for row, source in enumerate(examples.sources) if source == "a"])
    stream, before = first.targets.flatten(), first.inputs.flatten()
    assert before[0] == 0
    assert (before[1 : len(text)] == stream[: len(text) - 1]).all()
    assert before[len(text) :].count_nonzero() == 0
    last = examples.select([len(examples) - 1])
    assert last.inputs[0, :6].tolist() == [0, *b"shor", 0]
    assert last.targets[0, :6].tolist() == [*b"short", 0]
    TextTask(64).validate(examples.inputs, examples.targets)
    spoilt = examples.inputs.clone()
    spoilt[1, 5] = ord("~")
    with pytest.raises(InputError, match="window 1: an input is not the byte before"):
        TextTask(64).validate(spoilt, examples.targets)


def test_one_file_is_cut_into_contiguous_parts(tmp_path):
    text = prose(1, 3000)
    data = load_data(config(tmp_path, train_file=write(tmp_path, "a.txt", text), mask_window=0))
    parts = [joined(examples.targets) for examples in (data.train, data.val, data.test())]
    assert b"".join(parts) == text.encode()
    shares = [len(part) / len(text) for part in parts]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.001)
    assert data.manifest["split_rule"].startswith("contiguous")
    assert data.spec.causal
    assert data.augment is None


def test_files_of_a_folder_stay_whole_and_equal_ones_together(tmp_path):
    for number in range(20):
        write(tmp_path, f"folder/{number:02}.txt", prose(number))
    write(tmp_path, "folder/deep/copy.txt", prose(3))
    write(tmp_path, "folder/image.png", b"\x89PNG\0")
    data = load_data(config(tmp_path, train_file=str(tmp_path / "folder"), pattern="*.txt"))
    homes = {}
    for name, examples in (("train", data.train), ("val", data.val), ("test", data.test())):
        for source in examples.sources:
            assert homes.setdefault(source, name) == name
    assert len(homes) == 21
    assert homes[str(tmp_path / "folder/03.txt")] == homes[str(tmp_path / "folder/deep/copy.txt")]
    assert 0.05 < len(data.val) / len(data.train) < 0.2
    again = load_data(config(tmp_path, train_file=str(tmp_path / "folder"), pattern="*.txt", seed=5))
    assert set(again.val.sources) != set(data.val.sources)


def test_a_test_file_of_its_own_is_used_and_a_known_one_is_refused(tmp_path):
    train = write(tmp_path, "train.txt", prose(1, 3000))
    data = load_data(
        config(tmp_path, train_file=train, test_file=write(tmp_path, "test.txt.gz", gzip.compress(prose(2).encode())))
    )
    assert joined(data.test().targets) == prose(2).encode()
    assert data.manifest["share_also_in_train"]["test"] == 0.0
    with pytest.raises(InputError, match="also occur in train"):
        load_data(config(tmp_path, train_file=train, test_file=write(tmp_path, "part.txt", prose(1, 3000)[100:900])))


def test_a_shifted_paragraph_of_train_is_not_scored(tmp_path):
    train, fresh = prose(1, 3000), prose(2)
    copied = train[777:1111]
    test = write(tmp_path, "test.txt", fresh[:500] + copied + fresh[500:])
    data = load_data(config(tmp_path, train_file=write(tmp_path, "train.txt", train), test_file=test))
    scored = joined(data.test().targets).decode()
    kept = scored.replace(fresh[:500], "").replace(fresh[500:], "")
    assert len(kept) < 10  # a letter or two at the seams may fit both
    assert data.manifest["share_also_in_train"]["test"] == pytest.approx(334 / len(fresh + copied), abs=0.02)
    assert data.test().inputs.flatten().count_nonzero() > len(scored)  # still read as context where a window has both
    off = load_data(config(tmp_path, train_file=str(tmp_path / "train.txt"), test_file=test, mask_window=0))
    assert len(joined(off.test().targets)) == len(fresh + copied)


@pytest.mark.parametrize("window", [1, 2, 7, 50, 64])
def test_known_runs_agree_with_a_search(window):
    rng = np.random.default_rng(window)
    alphabet = 2 if window < 10 else 3
    text, other = (rng.integers(97, 97 + alphabet, size, dtype=np.uint8) for size in (300, 400))
    other[50:150] = text[100:200]
    known = {other[i : i + window].tobytes() for i in range(len(other) - window + 1)}
    expected = np.zeros(300, dtype=bool)
    for i in range(300 - window + 1):
        if text[i : i + window].tobytes() in known:
            expected[i : i + window] = True
    assert (KnownRuns(other, window).covered(text) == expected).all()
    assert expected.any()


def test_texts_shorter_than_a_run_have_nothing_in_common():
    short, text = np.full(10, 97, dtype=np.uint8), np.full(100, 97, dtype=np.uint8)
    assert not KnownRuns(short, 50).covered(text).any()
    assert not KnownRuns(text, 50).covered(short).any()
    assert not KnownRuns(text, 0).covered(text).any()


def test_the_default_corpus_is_the_standard_library_without_tests():
    documents = {document.name: document for document in stdlib_documents()}
    assert {"argparse", "json", "asyncio"} <= set(documents)
    assert not {"test", "encodings", "site-packages"} & set(documents)
    assert sum(len(document.content) for document in documents.values()) > 3_000_000
    assert all(b"\0" not in document.content for document in documents.values())
    again = {document.name: document.key for document in stdlib_documents()}
    assert again["json"] == documents["json"].key  # of the name alone: the same split in every version


def test_the_default_corpus_is_split_by_package(tmp_path, monkeypatch):
    small = [document for document in stdlib_documents() if len(document.content) < 20_000]
    monkeypatch.setattr("titans_trm.data.text.task.stdlib_documents", lambda: small)
    data = load_data(config(tmp_path))
    packages = [set(examples.sources) for examples in (data.train, data.val, data.test())]
    assert not packages[0] & packages[1] | packages[0] & packages[2] | packages[1] & packages[2]
    assert data.manifest["python_version"].startswith("3.")
    assert data.manifest["licence"] == "PSF-2.0"
    assert data.manifest["share_also_in_train"]["val"] < 0.3
    assert load_data(config(tmp_path)).manifest == data.manifest


BAD = {
    "the file is empty": b"",
    "byte 6 is NUL": b"hello\0world",
    "line 2: byte 0xff is not UTF-8": b"fine\n\xff\n",
    "the gzip file is truncated": gzip.compress(b"hello" * 100, mtime=0)[:-12],
}


@pytest.mark.parametrize(("words", "content"), BAD.items())
def test_a_file_that_is_no_text_is_named_with_the_reason(tmp_path, words, content):
    path = write(tmp_path, "bad.txt", content)
    with pytest.raises(InputError) as caught:
        load_data(config(tmp_path, train_file=path))
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_empty_folders_and_texts_too_short_are_named(tmp_path):
    with pytest.raises(InputError, match="file not found"):
        load_data(config(tmp_path, train_file=str(tmp_path / "none.txt")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no file matches data.pattern='\*'"):
        load_data(config(tmp_path, train_file=str(tmp_path / "empty")))
    with pytest.raises(InputError, match="too few for 3 splits"):
        load_data(config(tmp_path, train_file=write(tmp_path, "x.txt", "x\n"), mask_window=0))


def test_a_file_is_read_for_evaluation_with_all_bytes_scored(tmp_path):
    path = write(tmp_path, "a.txt", prose(4))
    examples, entries = read_examples(path, config(tmp_path))
    assert joined(examples.targets) == prose(4).encode()
    assert len(entries["sha256"]) == 64
    keys = TextTask(64).canonical_keys(examples.inputs, examples.targets)
    assert len(set(keys)) == len(examples)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seq_len": 1}, "data.seq_len=1"),
        ({"mask_window": -1}, "data.mask_window=-1"),
        ({"pattern": ""}, "data.pattern=''"),
        ({"source": "web"}, "stdlib, file"),
        ({"source": "file"}, "data.train_file=PATH"),
    ],
)
def test_an_impossible_value_names_key_and_cure(values, words):
    with pytest.raises(ValueError, match="data") as caught:
        TextConfig(**values)
    assert words in str(caught.value)
