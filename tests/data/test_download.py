"""Downloads are checked to the byte, kept whole or not at all, and never repeated."""

import hashlib
import zipfile

import pytest

from titans_trm.cli import main
from titans_trm.commands import download
from titans_trm.commands.download import TEXTS, Text, fetch
from titans_trm.errors import InputError

CONTENT = b"Some text that a server holds.\n" * 10


@pytest.fixture
def text(tmp_path) -> Text:
    archive = tmp_path / "server" / "small.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("small", CONTENT)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    return Text(archive.as_uri(), digest, "small", hashlib.sha256(CONTENT).hexdigest(), "data.val_fraction=0.05")


def test_a_text_is_fetched_once_and_checked(text, tmp_path):
    folder = tmp_path / "deep" / "cache"
    path = fetch(text, folder)
    assert path.read_bytes() == CONTENT
    assert list(folder.iterdir()) == [path]
    assert fetch(text._replace(url="file:///nowhere"), folder) == path
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match="small: sha256 .* is not .* download it again"):
        fetch(text, folder)


@pytest.mark.parametrize("part", ["archive_sha256", "sha256"])
def test_other_bytes_are_refused_and_nothing_is_kept(text, tmp_path, part):
    with pytest.raises(InputError, match="other bytes"):
        fetch(text._replace(**{part: "0" * 64}), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_no_connection_and_no_room_are_said_in_one_line(text, tmp_path):
    with pytest.raises(InputError, match="cannot be reached") as caught:
        fetch(text._replace(url="file:///nowhere/x.zip"), tmp_path / "cache")
    assert "\n" not in str(caught.value)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="choose another folder with --to"):
        fetch(text, tmp_path / "file" / "cache")


def test_the_command_says_how_to_train_on_it(text, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(download.TEXTS, "enwik8", text)
    assert main(["download", "enwik8", "--to", str(tmp_path / "cache")]) == 0
    said = capsys.readouterr().out.split()
    assert said[:3] == ["python", "train.py", "experiment=text"]
    assert said[3] == f"data.train_file={tmp_path / 'cache' / 'small'}"


def test_every_text_has_both_checksums():
    assert all(len(text.archive_sha256) == len(text.sha256) == 64 for text in TEXTS.values())
