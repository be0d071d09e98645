"""Train a small TitansTRM on easy 4x4 Sudoku in plain PyTorch, about a minute: `python examples/train.py [batches]`."""

import sys

import torch

from titans_trm import TitansTRM, TitansTRMConfig, solve
from titans_trm.data.load import load_data
from titans_trm.data.stream import ExampleStream
from titans_trm.data.sudoku.config import SudokuConfig
from titans_trm.losses.config import LossConfig
from titans_trm.losses.total import compute_loss
from titans_trm.models.config import BackboneConfig, HaltingConfig, MemoryConfig, RecursionConfig
from titans_trm.optim.build import build_optimizer
from titans_trm.optim.config import OptimizerConfig

torch.manual_seed(0)
data = load_data(SudokuConfig(size=4, source="generated", num_train=2000, num_val=200, num_test=200, clues=(8, 12)))
config = TitansTRMConfig(
    vocab_size=data.spec.vocab_size, seq_len=data.spec.seq_len, width=64, learned_positions=True,
    backbone=BackboneConfig(num_blocks=2, num_heads=4, mlp_hidden=192), memory=MemoryConfig(num_heads=4, expansion=2),
    recursion=RecursionConfig(num_latent_steps=2, num_recursions=2), halting=HaltingConfig(max_supervision_steps=2),
)  # fmt: skip
model, loss_config = TitansTRM(config), LossConfig(cross_entropy="softmax", diversity="off")
optimizer = build_optimizer(model, OptimizerConfig(name="adamw", lr=4e-3, weight_decay=0.1))
stream = ExampleStream(data.train, seed=0, augment=data.augment)
num_batches = int(sys.argv[1]) if len(sys.argv) > 1 else 200
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=num_batches)
for number in range(1, num_batches + 1):
    batch, carry = stream.take(32), model.initial_carry(32)
    for _ in range(config.halting.max_supervision_steps):  # deep supervision: an optimiser step after each of them
        output = model(batch.inputs, carry)
        carry = output.carry  # detached: the next step starts from these thoughts
        terms = compute_loss(output.logits, output.halting_logits, batch.targets, loss_config)
        optimizer.zero_grad()
        terms.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    schedule.step()
    if number % 10 == 0:
        print(f"batch {number}: cross-entropy {terms.cross_entropy.item():.3f}")

val = data.val.batch(range(len(data.val)))
exact = ((solve(model, val.inputs).answers == val.targets) | (val.targets == data.spec.ignore_index)).all(dim=1)
print(f"validation: {exact.float().mean().item():.1%} of {len(val)} puzzles exactly right")
