"""Build the data of a configuration ahead of time and write down what they are; later, prove that they still are."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from titans_trm.data.cache import cache_key, entries, verify_entry
from titans_trm.data.config import DataConfig
from titans_trm.data.load import TaskData, load_data
from titans_trm.data.sources import root
from titans_trm.errors import InputError

_FOLDER = "prepared"  # of the manifests, in the folder of cached data
_NOT_CONTENT = ("cache_dir",)  # keys of a configuration that do not change its data


def prepare(config: DataConfig) -> tuple[TaskData, Path]:
    """Build what `config` asks for, keep it, and return it with the path of its manifest.

    Raises:
        InputError: the data are bad, or the folder cannot be written.
    """
    _check_writable(root(config))
    data = load_data(config)
    path = manifest_path(config, data.spec.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data.manifest, indent=2, sort_keys=True) + "\n"
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(draft).replace(path)
    return data, path


def verify(config: DataConfig, name: str, on_file: Callable[[str, int], None] = lambda name, size: None) -> TaskData:
    """Hash every cached byte of the task again, and hold the data against the manifest of `prepare`.

    `name` is that of the task's `TaskSpec`. `on_file` is called with name and size of each file found right.

    Raises:
        InputError: nothing was prepared, a byte has changed, or the data are no longer those of the manifest.
    """
    path = manifest_path(config, name)
    try:
        then = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: these data were not prepared yet; run prepare first.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the rights of the folder.") from None
    except ValueError:
        raise InputError(f"{path}: is damaged; run prepare again.") from None
    for folder in entries(root(config), name):
        verify_entry(folder, lambda file, size, folder=folder: on_file(f"{folder.name}/{file}", size))  # type: ignore[misc]
    data = load_data(config)
    now = json.loads(json.dumps(data.manifest))
    if changed := sorted(key for key in {*then, *now} if then.get(key) != now.get(key)):
        raise InputError(
            f"{path}: the data are no longer those that were prepared ({', '.join(changed)} differ); put the files "
            "back as they were, or run prepare again."
        )
    return data


def cached_bytes(config: DataConfig, name: str) -> int:
    """Return the size of all cached files of a task."""
    folders = entries(root(config), name)
    return sum(file.stat().st_size for folder in folders for file in folder.glob("*.npy"))


def manifest_path(config: DataConfig, name: str) -> Path:
    """Return where the manifest of a configuration lies: another configuration, another file."""
    values = {key: value for key, value in dataclasses.asdict(config).items() if key not in _NOT_CONTENT}
    return root(config).expanduser() / _FOLDER / f"{name}-{cache_key(json.loads(json.dumps(values)))}.json"


def describe(config: DataConfig, manifest: dict[str, Any]) -> dict[str, str]:
    """Return the lines a person wants to read of a manifest."""
    lines = {
        "source": str(manifest["source"]),
        "version": f"generator {manifest['generator_version']}, reader {manifest['reader_version']}",
        "licence": str(manifest.get("licence", "not known")),
        "seed": str(manifest["seed"]),
        "split": f"{manifest['split_rule']}; salt {manifest['split_salt']}",
    }
    if manifest["fold"] is not None:
        lines["fold"] = manifest["fold"]
    for name, about in manifest["splits"].items():
        lines[name] = f"{about['count']:,} examples in {about['groups']:,} groups, sha256 {about['sha256'][:16]}..."
    return lines


def _check_writable(folder: Path) -> None:
    try:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); mend its rights, or choose another folder with "
            "data.cache_dir or TITANS_TRM_DATA."
        ) from None
