"""`run_facts`: what rules must know of a run, from its configuration as plain dicts (`config.yaml`)."""

from collections.abc import Mapping
from typing import Any

from titans_trm.diagnostics.config import DiagnosticsConfig
from titans_trm.diagnostics.signals import RunFacts


def run_facts(config: Mapping[str, Any], vocab_size: int = 2) -> RunFacts:
    """Return the facts of a run; keys that an older configuration lacks take their defaults."""
    trainer, model, loss = (config.get(name) or {} for name in ("trainer", "model", "loss"))
    scheduler, diagnostics = config.get("scheduler") or {}, config.get("diagnostics") or {}
    every = diagnostics.get("every_steps") if isinstance(diagnostics, Mapping) else None
    warmup = int(scheduler.get("warmup_steps", 0))
    return RunFacts(
        max_steps=int(trainer.get("max_steps", 1)),
        warmup_steps=warmup,
        decay_from=warmup if scheduler.get("name") == "cosine" else None,
        vocab_size=vocab_size,
        max_supervision_steps=int((model.get("halting") or {}).get("max_supervision_steps", 1)),
        batch_size=int(trainer.get("batch_size", 1)) * int(trainer.get("accumulate", 1)),
        halting_weight=float(loss.get("halting_weight", 0.5)),
        diversity=str(loss.get("diversity", "off")),
        gate=str((model.get("backbone") or {}).get("gate", "product")),
        gradient_clip=trainer.get("gradient_clip_val"),
        scaled_gradients=trainer.get("precision") == "16-mixed",
        every_steps=int(every or DiagnosticsConfig().every_steps),
    )
