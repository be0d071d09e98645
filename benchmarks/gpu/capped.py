"""Train `trm_25m` on a card with the process held to 6 GiB, whatever the card has: peak memory and examples per second.

    python benchmarks/gpu/capped.py [--cap 6GiB] [--steps 200] [overrides of train.py ...]

The cap is `torch.cuda.set_per_process_memory_fraction`: an allocation beyond it fails as on a card of that size. The
CUDA context is not counted by it, so its bytes, as predicted, are taken off the cap. Exit status 1 if the run did not
complete or its peak lies above the cap.
"""

import argparse
import sys

import torch

from titans_trm.profiling.memory import CUDA_OVERHEAD_BYTES, predict_training_peak
from titans_trm.training.config import parse_bytes


def main() -> int:
    """Train under the cap and print one line."""
    arguments = _arguments()
    if not torch.cuda.is_available():
        sys.stderr.write("capped.py needs a CUDA card; this machine has none.\n")
        return 2
    from titans_trm.config import compose
    from titans_trm.data.registry import make_task
    from titans_trm.tasks.build import build_model
    from titans_trm.tasks.hardware import on_this_machine, training_setup
    from titans_trm.tasks.train import train

    cap = parse_bytes(arguments.cap, key="--cap")
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(allowed_fraction(cap, total))
    overrides = ["experiment=trm_25m", "hardware=gpu_6gb", f"trainer.max_steps={arguments.steps}"]
    overrides += arguments.overrides
    config = on_this_machine(compose("train", overrides))
    model = build_model(config.model, make_task(config.data).spec)
    predicted = predict_training_peak(model.config, training_setup(config)).total_bytes
    summary = train(compose("train", overrides))
    peak = summary["peak_memory_bytes"] + CUDA_OVERHEAD_BYTES
    rate = summary["train"].get("examples_per_second")
    sys.stdout.write(
        f"{torch.cuda.get_device_name(0)}: {summary['status']}, peak {peak / 2**30:.2f} GiB with its context, "
        f"predicted {predicted / 2**30:.2f} GiB, cap {cap / 2**30:.2f} GiB, examples per second {rate}\n"
    )
    return 0 if summary["status"] == "completed" and peak <= cap else 1


def allowed_fraction(cap: int, total: int) -> float:
    """Return the share of a card of `total` bytes that tensors may take under `cap`, the context taken off."""
    if cap <= CUDA_OVERHEAD_BYTES:
        raise SystemExit(f"--cap of {cap:,} bytes is less than the CUDA context takes; choose e.g. 6GiB.")
    return min(1.0, (cap - CUDA_OVERHEAD_BYTES) / total)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cap", default="6GiB", help="memory of the card that is imitated")
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps")
    parser.add_argument("overrides", nargs="*", help="of train.py")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    raise SystemExit(main())
