"""What to do when the device's memory is full: the same training in smaller batches, or one message with the cures."""

import dataclasses
import logging

from titans_trm.errors import InputError
from titans_trm.training.config import RunConfig

logger = logging.getLogger(__name__)


def in_smaller_batches(config: RunConfig, world_size: int) -> RunConfig:
    """Return `config` with batches of half the size (a smaller share where it is odd) and as many more of them a step.

    The slots of an optimiser step stay as many, and get the same examples: training goes on as it would have, up to the
    order of sums, and to the diversity term, which is a statistic of one batch.

    Raises:
        InputError: a batch of one example does not fit, or the processes of a distributed run would have to agree.
    """
    trainer = config.trainer
    factor = next((n for n in range(2, trainer.batch_size + 1) if trainer.batch_size % n == 0), None)
    if factor is None:
        raise InputError(
            "out of memory with trainer.batch_size=1; set model.recursion.checkpointing=true, "
            "trainer.precision=bf16-mixed or a smaller model (model.width, model.backbone.num_blocks)."
        )
    size, accumulate = trainer.batch_size // factor, trainer.accumulate * factor
    if world_size > 1:
        raise InputError(
            f"out of memory with trainer.batch_size={trainer.batch_size} on each of {world_size} processes; resume "
            f"with trainer.batch_size={size} trainer.accumulate={accumulate}, which trains the same, or set "
            "model.recursion.checkpointing=true."
        )
    logger.warning(
        "out of memory: going on with trainer.batch_size=%d trainer.accumulate=%d, %d slots a step as before",
        size,
        accumulate,
        size * accumulate,
    )
    validated = trainer.val_batch_size
    smaller = dataclasses.replace(
        trainer,
        batch_size=size,
        accumulate=accumulate,
        val_batch_size=None if validated is None else max(1, validated // factor),
    )
    return dataclasses.replace(config, trainer=smaller)
