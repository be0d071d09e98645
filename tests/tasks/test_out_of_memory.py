import dataclasses
import json

import lightning
import pytest
import torch
from training_cases import WARNINGS, tiny_config

from titans_trm.config import compose
from titans_trm.errors import InputError
from titans_trm.tasks.out_of_memory import out_of_memory
from titans_trm.tasks.train import train

CUDA_MESSAGE = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 5.79 GiB of which 1.1 GiB is free."
)

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]


class NoMemoryLeft(lightning.Callback):
    """Raises what PyTorch raises when a card is full, whatever the batch."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        raise torch.cuda.OutOfMemoryError(CUDA_MESSAGE)


def test_message_names_three_settings_and_keeps_the_slots_of_a_step():
    config = compose("train", ["experiment=trm_25m", "trainer.batch_size=96", "trainer.accumulate=2"])
    message = str(out_of_memory(torch.cuda.OutOfMemoryError(CUDA_MESSAGE), config))
    assert "trainer.batch_size=48 trainer.accumulate=4" in message and "192 slots" in message
    assert "(2) model.recursion.checkpointing=true" in message
    assert "Tried to allocate" not in message  # one sentence of the error is enough
    assert "(3)" in message and "(4)" not in message


def test_settings_in_use_are_not_advised_again():
    in_use = ["model.recursion.checkpointing=true", "trainer.precision=bf16-mixed", "trainer.batch_size=1"]
    config = compose("train", ["experiment=trm_25m", *in_use])
    message = str(out_of_memory(torch.cuda.OutOfMemoryError(CUDA_MESSAGE), config))
    assert "checkpointing=true" not in message and "bf16" not in message.partition("Settings")[2]
    assert "trainer.ema_decay=null" in message and "num_latent_steps=3" in message and "(3)" in message


def test_the_refusal_of_the_cpus_allocator_is_known_and_other_errors_are_not():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60)
    assert out_of_memory(refused.value, compose("train")) is not None
    assert out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), compose("train")) is None


def test_a_run_for_which_no_batch_is_small_enough_ends_with_one_message(tmp_path):
    config = tiny_config(tmp_path / "run", "trainer.batch_size=2")
    config = dataclasses.replace(config, callbacks={"full": {"_target_": f"{__name__}.NoMemoryLeft"}})
    with pytest.raises(InputError, match="out of memory .*batch 1, .*checkpointing=true.*bf16-mixed.*ema_decay=null"):
        train(config)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert summary["error"].startswith("out of memory (hardware=cpu, batch 1, 32-true)")
    assert summary["peak_memory_bytes"] > 0
