"""Keep built example sets on disk, complete or not at all, and notice every changed byte."""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from titans_trm.data.examples import ExampleSet
from titans_trm.data.files import sha256
from titans_trm.errors import InputError

_FORMAT = 1  # raise when the layout of an entry changes
_ARRAYS = ("inputs", "targets", "ratings", "keys", "source_ids")
_IDS = "puzzle_ids"  # of tasks that have them
_COMPLETE = ".complete"  # written last: an entry without it was copied or removed in part

Built = tuple[dict[str, ExampleSet], dict[str, Any]]  # sets by name, manifest entries

logger = logging.getLogger(__name__)


def default_root() -> Path:
    """Return $TITANS_TRM_DATA, or ~/.cache/titans_trm."""
    return Path(os.environ.get("TITANS_TRM_DATA") or Path.home() / ".cache" / "titans_trm")


def cached(root: Path, name: str, identity: dict[str, Any], build: Callable[[], Built]) -> Built:
    """Return what `build` returns, from disk when it was built before with the same `identity` (JSON values).

    The entry lies in `root/name-<hash of identity>`. A folder that cannot be written costs a warning and the time to
    build again; a file whose bytes are not those that were written is an `InputError` that names it.
    """
    folder = root.expanduser() / f"{name}-{cache_key({'format': _FORMAT, **identity})}"
    if _is_complete(folder):
        return _read(folder)
    with _lock(folder):  # of several ranks one builds, the others wait and read
        if _is_complete(folder):
            return _read(folder)
        built = build()
        try:
            _write(folder, *built, identity)
        except OSError as error:
            reason = error.strerror
            logger.warning("Cannot keep data in %s (%s); it is built again on the next run.", folder.parent, reason)
        return built


def cache_key(identity: dict[str, Any]) -> str:
    """Return 16 hexadecimal digits that stand for JSON values: other values give another key."""
    return sha256(json.dumps(identity, sort_keys=True).encode())[:16]


def entries(root: Path, name: str) -> list[Path]:
    """Return the folders of all complete entries whose name begins with `name`."""
    try:
        return sorted(folder for folder in root.expanduser().glob(f"{name}-*") if _is_complete(folder))
    except OSError as error:
        raise InputError(f"{root}: cannot be listed ({error.strerror}); check the rights of the folder.") from None


def verify_entry(folder: Path, on_file: Callable[[str, int], None] = lambda name, size: None) -> int:
    """Hash every byte of an entry again and return how many there are; a changed one is an `InputError`.

    `on_file` is called with name and size of each file that was found right.
    """
    text = _checked(folder / "manifest.json", (folder / _COMPLETE).read_text(encoding="utf-8"))
    total = 0
    for name, digest in json.loads(text)["files"].items():
        size = len(_checked(folder / name, digest))
        on_file(name, size)
        total += size
    return total


def _is_complete(folder: Path) -> bool:
    try:
        return (folder / _COMPLETE).exists()
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be read ({error.strerror}); make the folder readable for this user, or choose another "
            "with data.cache_dir or TITANS_TRM_DATA."
        ) from None


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the lock of an entry; where there can be no lock, go on without: the rename at the end is atomic."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            place = folder.parent / ".locks"
            place.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((place / folder.name).open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(folder: Path, sets: dict[str, ExampleSet], entries: dict[str, Any], identity: dict[str, Any]) -> None:
    """Write an entry beside its place, then rename it: other processes see all of it or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        files: dict[str, str] = {}
        described: dict[str, Any] = {}
        for name, examples in sets.items():
            sources = sorted(set(examples.sources))
            described[name] = {"name": examples.name, "count": len(examples), "sources": sources}
            for part, array in _arrays(examples, sources).items():
                np.save(draft / f"{name}.{part}.npy", array, allow_pickle=False)
        for path in sorted(draft.iterdir()):
            files[path.name] = sha256(path.read_bytes())
            _flush(path)
        manifest = {"identity": identity, "sets": described, "files": files, "entries": entries}
        text = json.dumps(manifest, indent=2, sort_keys=True)
        (draft / "manifest.json").write_text(text, encoding="utf-8")
        (draft / _COMPLETE).write_text(sha256(text.encode()), encoding="utf-8")
        _flush(draft / "manifest.json")
        _flush(draft / _COMPLETE)
        draft.chmod(0o755)  # mkdtemp makes it private; a cache may be shared
        if folder.exists() and not (folder / _COMPLETE).exists():
            shutil.rmtree(folder)
        if not folder.exists():
            _rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _rename(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError:
        if not (folder / _COMPLETE).exists():  # otherwise another process built the same entry first
            raise


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _arrays(examples: ExampleSet, sources: list[str]) -> dict[str, np.ndarray]:
    number = {source: i for i, source in enumerate(sources)}
    ids = {} if examples.puzzle_ids is None else {_IDS: examples.puzzle_ids.numpy()}
    return ids | {
        "inputs": examples.inputs.numpy(),
        "targets": examples.targets.numpy(),
        "ratings": examples.ratings.numpy(),
        "keys": np.array(examples.keys, dtype=np.bytes_),
        "source_ids": np.array([number[source] for source in examples.sources], dtype=np.int32),
    }


def _read(folder: Path) -> Built:
    """Read an entry, comparing every file with the checksum it was written with."""
    text = _checked(folder / "manifest.json", (folder / _COMPLETE).read_text(encoding="utf-8")).decode()
    manifest = json.loads(text)
    sets: dict[str, ExampleSet] = {}
    for name, about in manifest["sets"].items():
        arrays = {}
        for part in (*_ARRAYS, _IDS):
            if part == _IDS and f"{name}.{part}.npy" not in manifest["files"]:
                continue
            path = folder / f"{name}.{part}.npy"
            _checked(path, manifest["files"][path.name])
            arrays[part] = _load(path)
        sets[name] = ExampleSet(
            name=about["name"],
            inputs=torch.from_numpy(arrays["inputs"]),
            targets=torch.from_numpy(arrays["targets"]),
            keys=arrays["keys"].astype(np.str_).tolist(),
            sources=[about["sources"][i] for i in arrays["source_ids"].tolist()],
            ratings=torch.from_numpy(arrays["ratings"]),
            puzzle_ids=torch.from_numpy(arrays[_IDS]) if _IDS in arrays else None,
        )
    return sets, manifest["entries"]


def _load(path: Path) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise InputError(f"{path}: not an array of numbers ({error}); remove the folder {path.parent}.") from None
    return found


def _checked(path: Path, digest: str) -> bytes:
    """Return the bytes of a file of the cache; `InputError` when they are not those that were written."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); remove the folder {path.parent} to build it again."
        ) from None
    if sha256(raw) != digest:
        raise InputError(
            f"{path}: the bytes have changed since the file was written (sha256 {sha256(raw)[:12]}..., not "
            f"{digest[:12]}...); remove the folder {path.parent} to build it again."
        )
    return raw
