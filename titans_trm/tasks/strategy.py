"""How processes share a training: nothing to share, DDP, or FSDP."""

from lightning.pytorch.strategies import FSDPStrategy, Strategy

from titans_trm.training.config import HardwareConfig


def build_strategy(hardware: HardwareConfig) -> Strategy | str:
    """Return Lightning's strategy for `hardware.strategy`."""
    if hardware.strategy == "fsdp":
        # One unit: the shared net is called dozens of times a step, and to gather it each time would cost more than
        # it saves. Gradients and optimiser state, three quarters of the memory beside activations, are sharded.
        return FSDPStrategy(sharding_strategy="SHARD_GRAD_OP", state_dict_type="full")
    return hardware.strategy
