"""Checkpoints on disk: written whole or not at all, the one before kept, a damaged one named and passed over."""

import contextlib
import logging
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from titans_trm.errors import InputError
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.training.disk import naming

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
logger = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write to a temporary file, flush it to the disk, then rename: at any moment a reader finds a whole file.

    The `last.ckpt` that is about to be replaced stays as `previous.ckpt`.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`; on any failure what was there before is untouched."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        with naming(target):
            try:
                with open(partial, "wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException as error:
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)
                raise _cause(error) from error
            if target.name == LAST and target.exists():
                _keep_as(target, target.with_name(PREVIOUS))
            os.replace(partial, target)
            _sync_folder(target.parent)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without executing code.

    Raises:
        InputError: the file is missing, damaged, or holds anything but plain tensors and numbers.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"{source} does not exist; give a checkpoint file such as runs/.../checkpoints/last.ckpt.")
    try:
        checkpoint = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for every kind of damage
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{source} is damaged or not a checkpoint ({reason}).") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint or "hyper_parameters" not in checkpoint:
        raise InputError(f"{source} is not a checkpoint of this project: it lacks state_dict or hyper_parameters.")
    return checkpoint


def load_model_weights(model: TitansTRM, path: str | Path) -> dict[str, Any]:
    """Load the averaged (where there is an average) weights of a checkpoint into `model`; return the whole checkpoint.

    Raises:
        InputError: as `load_checkpoint`, or the weights are of another model.
    """
    checkpoint = load_checkpoint(path)
    prefix = "model."
    weights = {
        name.removeprefix(prefix): value for name, value in checkpoint["state_dict"].items() if name.startswith(prefix)
    }
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{path} holds the weights of another model: {_differences(model, weights)}.") from error
    return checkpoint


def recount_batches(checkpoint: dict[str, Any], before: int, now: int) -> None:
    """Let Lightning's count of batches in `checkpoint` stand for `now` batches an optimiser step, not `before`."""
    if before == now:
        return
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        under_way = counts["ready"] - counts["completed"]
        whole = counts["ready"] * now // before
        counts |= {"ready": whole, "started": whole, "processed": whole, "completed": whole - under_way}


def newest_readable(folder: str | Path) -> Path | None:
    """Return the newest readable of `last.ckpt` and `previous.ckpt` in `folder`, or None where there is neither.

    A damaged file is named in a warning and passed over; where the one before is taken, it is renamed to
    `last.ckpt.damaged`, so that it never takes the place of a readable one.

    Raises:
        InputError: there are checkpoints, and all of them are damaged.
    """
    found = [Path(folder) / name for name in (LAST, PREVIOUS) if (Path(folder) / name).is_file()]
    for path in found:
        try:
            load_checkpoint(path)
        except InputError as error:
            logger.warning("%s%s", error, "" if path == found[-1] else " Trying the checkpoint before it.")
        else:
            for damaged in found[: found.index(path)]:
                with contextlib.suppress(OSError):
                    os.replace(damaged, damaged.with_name(f"{damaged.name}.damaged"))
            return path
    if found:
        names = ", ".join(path.name for path in found)
        raise InputError(
            f"every checkpoint in {folder} is damaged: {names}. Put one back from a copy, or begin a new run without "
            "resume."
        )
    return None


def _differences(model: TitansTRM, weights: dict[str, Tensor]) -> str:
    """Return in a few words how `weights` differ from those of `model`, by name or shape, with one example each."""
    own = model.state_dict()
    sizes = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    found = []
    for what, names in (
        ("missing", own.keys() - weights.keys()),
        ("unknown", weights.keys() - own.keys()),
        ("of another size", sizes),
    ):
        if names:
            found.append(f"{len(names)} {what} (such as {min(names)})")
    return ", ".join(found)


def _cause(error: BaseException) -> BaseException:
    """Return the `OSError` behind what torch makes of one in the middle of a file, else the error itself."""
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, OSError):
        behind = behind.__cause__ or behind.__context__
    return behind or error


def _keep_as(current: Path, kept: Path) -> None:
    """Give `current` a second name, so that the file stays when its first name moves on."""
    link = kept.with_name(f".{kept.name}.partial")
    link.unlink(missing_ok=True)
    try:
        os.link(current, link)
    except OSError:  # a file system without hard links
        os.replace(current, kept)
    else:
        os.replace(link, kept)


def _sync_folder(folder: Path) -> None:
    """Flush the folder's entry, where the system allows it, so that the new name survives a power cut."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
