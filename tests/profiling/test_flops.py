import dataclasses

import pytest

from titans_trm.losses.config import LossConfig
from titans_trm.models.config import BackboneConfig, HaltingConfig, MemoryConfig, RecursionConfig, TitansTRMConfig
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.profiling.flops import count_flops, flop_counter
from titans_trm.profiling.training_step import forward, make_carry, make_examples

D, HIDDEN, N, V, LATENT, RECURSIONS = 16, 24, 9, 5, 2, 3


def _config(*, gate="attention_only", carry="reset", gradient="full", checkpointing=False, **sizes):
    return TitansTRMConfig(
        vocab_size=V,
        seq_len=N,
        width=D,
        backbone=BackboneConfig(num_blocks=2, num_heads=2, mlp_hidden=HIDDEN, num_persistent_tokens=0, gate=gate),
        memory=MemoryConfig(num_heads=2, expansion=2, carry=carry),
        recursion=RecursionConfig(
            num_latent_steps=LATENT, num_recursions=RECURSIONS, gradient=gradient, checkpointing=checkpointing
        ),
        halting=HaltingConfig(max_supervision_steps=6),
    )


def _block_by_hand():
    tokens = N + 1
    qkv, out = 2 * tokens * D * 3 * D, 2 * tokens * D * D
    attention = 2 * (2 * tokens * tokens * D)  # scores and their product with the values, all heads
    mlp = 2 * tokens * D * 2 * HIDDEN + 2 * tokens * HIDDEN * D
    return qkv + attention + out + mlp


def test_counts_equal_a_count_by_hand_without_memory():
    flops = count_flops(_config())
    net_call = 2 * _block_by_hand()
    head = 2 * N * D * V
    assert flops.net_call == net_call
    assert flops.step_forward == RECURSIONS * (LATENT + 1) * net_call + head
    assert flops.solve == 6 * flops.step_forward
    assert flops.step == flops.step_forward + flops.step_backward
    # Each product has two in the backward pass; attention recomputes its scores, which makes five for two.
    attention = 2 * (2 * (N + 1) * (N + 1) * D) * 2
    assert flops.step_backward == (LATENT + 1) * (2 * (net_call - attention) + 2.5 * attention) + 2 * head


@pytest.mark.parametrize("carry", ["reset", "cycles", "steps"])
def test_counts_equal_those_of_the_real_run_with_memory(carry):
    config = _config(gate="product", carry=carry)
    model = TitansTRM(config)
    with flop_counter() as counter:
        loss, _ = forward(model, make_examples(config, 1), make_carry(model, 1), LossConfig(), "32-true")
        real_forward = counter.get_total_flops()
        loss.backward()
    flops = count_flops(config)
    assert flops.step_forward == real_forward
    assert flops.step_backward == counter.get_total_flops() - real_forward


def test_checkpointing_repeats_the_calls_that_carry_gradient():
    plain = count_flops(_config())
    full = count_flops(_config(checkpointing=True))
    one = count_flops(_config(checkpointing=True, gradient="one_step"))
    assert full.recomputed == (LATENT + 1) * plain.net_call
    assert one.recomputed == 2 * plain.net_call
    assert dataclasses.replace(full, recomputed=0) == plain
    assert one.step_backward < full.step_backward
