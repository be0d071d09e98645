"""What to do when the device's memory is full: the same training in smaller batches, or one message with the cures."""

import dataclasses
import logging

import torch

from titans_trm.errors import InputError
from titans_trm.training.config import RunConfig

_MOST = 3  # settings named

logger = logging.getLogger(__name__)


def in_smaller_batches(config: RunConfig) -> RunConfig | None:
    """Return `config` with batches of half the size (a smaller share where it is odd) and as many more of them a step.

    The slots of an optimiser step stay as many, and get the same examples: training goes on as it would have, up to the
    order of sums, and to the diversity term, which is a statistic of one batch. None where a batch is one example.
    """
    trainer = config.trainer
    factor = next((n for n in range(2, trainer.batch_size + 1) if trainer.batch_size % n == 0), None)
    if factor is None:
        return None
    validated = trainer.val_batch_size
    smaller = dataclasses.replace(
        trainer,
        batch_size=trainer.batch_size // factor,
        accumulate=trainer.accumulate * factor,
        val_batch_size=None if validated is None else max(1, validated // factor),
    )
    return dataclasses.replace(config, trainer=smaller)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a card or the CPU's allocator refused memory."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def out_of_memory(error: BaseException, config: RunConfig) -> InputError | None:
    """Return the message for an error that means "no memory left", or None if it means something else."""
    if not is_out_of_memory(error):
        return None
    settings = "; ".join(f"({place}) {text}" for place, text in enumerate(_remedies(config)[:_MOST], start=1))
    trainer = config.trainer
    where = f"hardware={config.hardware.name}, batch {trainer.batch_size}, {trainer.precision}"
    return InputError(
        f"out of memory ({where}): {_first_sentence(error)} Settings that help: {settings}. "
        "profile.py with the same overrides predicts the peak and the largest batch that fits."
    )


def _remedies(config: RunConfig) -> list[str]:
    """Return what lowers the peak and is not done yet, the best first."""
    trainer, recursion = config.trainer, config.model.recursion
    found = []
    if trainer.batch_size > 1:
        batch = trainer.batch_size // 2
        accumulate = -(-trainer.batch_size * trainer.accumulate // batch)
        found.append(
            f"trainer.batch_size={batch} trainer.accumulate={accumulate}: half the activations, "
            f"{batch * accumulate} slots an optimiser step"
        )
    if not recursion.checkpointing:
        found.append(
            "model.recursion.checkpointing=true: net calls are recomputed, a twentieth of the activations for about "
            "a fifth more work"
        )
    if trainer.precision == "32-true":
        found.append("trainer.precision=bf16-mixed: activations of products take half the bytes")
    if trainer.ema_decay is not None:
        found.append("trainer.ema_decay=null: no averaged copy of the weights (accuracy suffers)")
    if recursion.num_latent_steps > 1:
        found.append(
            f"model.recursion.num_latent_steps={recursion.num_latent_steps // 2}: fewer net calls carry gradient "
            "(another model)"
        )
    found.append("a smaller model.width or model.backbone.num_blocks (another model)")
    return found


def _first_sentence(error: BaseException) -> str:
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return line.partition(". ")[0].rstrip(".") + "."
