import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from titans_trm.errors import InputError
from titans_trm.training.checkpoint_io import (
    AtomicCheckpointIO,
    load_checkpoint,
    load_model_weights,
    newest_readable,
)


def checkpoint(step: int, size: int = 3) -> dict[str, Any]:
    return {"state_dict": {"model.w": torch.full((size,), float(step))}, "hyper_parameters": {}, "global_step": step}


def save(folder: Path, *steps: int, name: str = "last.ckpt") -> Path:
    for step in steps:
        AtomicCheckpointIO().save_checkpoint(checkpoint(step), folder / name)
    return folder / name


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_the_last_two_are_kept_and_nothing_else(tmp_path: Path) -> None:
    save(tmp_path / "new" / "folder", 1, 2, 3)
    assert names(tmp_path / "new" / "folder") == ["last.ckpt", "previous.ckpt"]
    assert load_checkpoint(tmp_path / "new" / "folder" / "last.ckpt")["global_step"] == 3
    assert load_checkpoint(tmp_path / "new" / "folder" / "previous.ckpt")["global_step"] == 2


def test_the_best_is_replaced_without_rotation(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, name="best.ckpt")
    assert names(tmp_path) == ["best.ckpt"]
    assert load_checkpoint(tmp_path / "best.ckpt")["global_step"] == 2


def test_the_last_two_are_kept_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "hard links are not supported")

    monkeypatch.setattr(os, "link", refuse)
    save(tmp_path, 1, 2, 3)
    assert names(tmp_path) == ["last.ckpt", "previous.ckpt"]
    assert load_checkpoint(tmp_path / "previous.ckpt")["global_step"] == 2


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = save(tmp_path, 1, 2)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    unwritable = checkpoint(3) | {"callback": lambda: None}  # pickling fails after the tensors' names are written
    with pytest.raises((AttributeError, pickle.PicklingError)):
        AtomicCheckpointIO().save_checkpoint(unwritable, path)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_a_disk_that_fills_up_leaves_what_was_there(tmp_path: Path) -> None:
    """The operating system cuts the file off at 64 KiB, as a full disk would."""
    resource = pytest.importorskip("resource")  # of POSIX systems
    path = save(tmp_path, 1, 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises((OSError, RuntimeError)):
            AtomicCheckpointIO().save_checkpoint(checkpoint(3, size=2**18), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["last.ckpt", "previous.ckpt"]
    assert load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 2


def test_a_leftover_of_a_killed_write_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / ".last.ckpt.partial").write_bytes(b"half")
    (tmp_path / ".previous.ckpt.partial").write_bytes(b"half")
    save(tmp_path, 1, 2)
    assert newest_readable(tmp_path) == tmp_path / "last.ckpt"
    assert load_checkpoint(tmp_path / "previous.ckpt")["global_step"] == 1
    assert names(tmp_path) == ["last.ckpt", "previous.ckpt"]


def test_a_damaged_last_checkpoint_is_named_and_the_one_before_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tmp_path, 1, 2)
    assert newest_readable(tmp_path) == path
    truncate(path)
    with caplog.at_level(logging.WARNING):
        assert newest_readable(tmp_path) == tmp_path / "previous.ckpt"
    assert str(path) in caplog.text and "damaged" in caplog.text


def test_all_checkpoints_damaged_is_an_error_that_names_them(tmp_path: Path) -> None:
    truncate(save(tmp_path, 1, 2))
    truncate(tmp_path / "previous.ckpt")
    with pytest.raises(InputError, match=r"every checkpoint .* damaged: last.ckpt, previous.ckpt"):
        newest_readable(tmp_path)


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_readable(tmp_path) is None
    assert newest_readable(tmp_path / "missing") is None


class Malicious:
    """Runs a command when unpickled by a reader that allows it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    path, proof = tmp_path / "last.ckpt", tmp_path / "proof"
    torch.save(checkpoint(1) | {"payload": Malicious(proof)}, path)
    with pytest.raises(InputError, match="damaged or not a checkpoint"):
        load_checkpoint(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)  # the attack itself works
    assert proof.exists()


def test_a_missing_file_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; give a checkpoint file"):
        load_checkpoint(tmp_path / "none.ckpt")


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"hyper_parameters": {}}])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="not a checkpoint of this project"):
        load_checkpoint(tmp_path / "other.ckpt")


def test_weights_are_loaded_into_the_model_they_fit(tmp_path: Path) -> None:
    path = save(tmp_path, 4)
    fitting = torch.nn.ParameterDict({"w": torch.zeros(3)})
    assert load_model_weights(fitting, path)["global_step"] == 4  # type: ignore[arg-type]
    assert torch.equal(fitting["w"], torch.full((3,), 4.0))
    with pytest.raises(InputError, match=r"weights of another model: .*\d of another size \(such as "):
        load_model_weights(torch.nn.ParameterDict({"w": torch.zeros(5)}), path)  # type: ignore[arg-type]
