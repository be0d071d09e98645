"""`titans-trm download NAME`: fetch a public text, checked to the byte. Nothing else in this package downloads data."""

import argparse
import hashlib
import os
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

from rich.console import Console
from rich.progress import Progress

from titans_trm.errors import InputError
from titans_trm.training.console import format_bytes, print_plain

_PIECE = 1 << 20  # bytes read at once
_SECONDS = 60  # without an answer before the server counts as silent


class Text(NamedTuple):
    """A zip archive that holds one text."""

    url: str
    archive_sha256: str
    member: str
    sha256: str  # of the unpacked text
    use: str  # overrides of train.py that go with it


TEXTS = {
    "enwik8": Text(
        url="http://mattmahoney.net/dc/enwik8.zip",
        archive_sha256="547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
        member="enwik8",
        sha256="2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
        use="data.val_fraction=0.05 data.test_fraction=0.05",  # the usual 90, 5 and 5 million bytes
    )
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", choices=sorted(TEXTS))
    parser.add_argument("--to", type=Path, help="folder (default: $TITANS_TRM_DATA or ~/.cache/titans_trm)")


def run(arguments: argparse.Namespace) -> int:
    """Download, check, unpack, and say what to type next."""
    from titans_trm.data.cache import default_root  # imports torch

    text = TEXTS[arguments.name]
    path = fetch(text, arguments.to or default_root())
    print_plain(Console(), f"python train.py experiment=text data.train_file={path} {text.use}")
    return 0


def fetch(text: Text, folder: Path) -> Path:
    """Return the unpacked text in `folder`, downloaded unless it is there already.

    Raises:
        InputError: no connection, no room, or bytes that are not those that were promised.
    """
    path = folder.expanduser() / text.member
    if path.is_file():
        _check(path, text.sha256)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as draft:
            archive = Path(draft) / "archive.zip"
            _download(text.url, archive)
            _check(archive, text.archive_sha256)
            with zipfile.ZipFile(archive) as packed:
                unpacked = Path(packed.extract(text.member, draft))
            _check(unpacked, text.sha256)
            os.replace(unpacked, path)
    except (URLError, TimeoutError) as error:
        raise InputError(
            f"{text.url} cannot be reached ({error}); fetch it by another way and unpack it to {path}."
        ) from None
    except OSError as error:
        raise InputError(
            f"{path.parent}: cannot be written ({error.strerror}); choose another folder with --to."
        ) from None
    return path


def _download(url: str, path: Path) -> None:
    with urlopen(url, timeout=_SECONDS) as answer, path.open("wb") as file, Progress(transient=True) as progress:
        size = answer.headers.get("Content-Length")
        total = int(size) if size else None
        task = progress.add_task(f"{url} ({format_bytes(total) if total else 'size unknown'})", total=total)
        while piece := answer.read(_PIECE):
            file.write(piece)
            progress.advance(task, len(piece))


def _check(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise InputError(
            f"{path.name}: sha256 {found[:12]}... is not {sha256[:12]}..., so these are other bytes; remove "
            f"{path} and download it again."
        )
