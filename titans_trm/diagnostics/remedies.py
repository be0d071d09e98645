"""The remedies that rules suggest: bounded changes and how to tell whether they worked.

Bounds and steps: loss weights within what training bears (the diversity term up to 10, the halting loss 0.05 to 2), the
rate only down (up once, by two, where it is too low), clipping 0.1 to 10.
"""

from titans_trm.diagnostics.alert import Change, Remedy, Verification

_RATES = ("optimizer.lr", "optimizer.muon_lr")

PERTURB_HALTING_HEAD = Remedy(
    id="q_head_perturb",
    advice="add small random weights to the halting head: equal logits cannot be told apart by any symmetric loss.",
    action="perturb_halting_head",
    verification=Verification("halting/logit_std", ">", 0.1, within_steps=200),
)
MORE_DIVERSITY = Remedy(
    id="act_diversity_weight",
    advice="raise the weight of the diversity term (loss.diversity=logit_std) so that halting logits spread again.",
    changes=(Change("loss.diversity_weight", "multiply", 10.0, low=0.1, high=10.0),),
    verification=Verification("halting/logit_std", ">", 0.1, within_steps=200),
)
MORE_HALTING_LOSS = Remedy(
    id="act_loss_weight",
    advice="double the weight of the halting loss, so that the head catches up with what the model can do.",
    changes=(Change("loss.halting_weight", "multiply", 2.0, low=0.05, high=2.0),),
    verification=Verification("halting/correlation", ">", 0.2, within_steps=200),
)
MORE_EXPLORATION = Remedy(
    id="halt_exploration_prob",
    advice="let more examples run a random minimum of steps, so that deep steps stay trained.",
    changes=(Change("model.halting.exploration", "add", 0.1, low=0.0, high=0.5),),
    verification=Verification("halting/steps", ">", 1.5, within_steps=200),
)
LOWER_RATE = Remedy(
    id="lr_scale",
    advice="halve the learning rates.",
    changes=tuple(Change(key, "multiply", 0.5, low=1e-7, high=1.0) for key in _RATES),
    verification=Verification("update/median", "<", 0.1, within_steps=300),
)
MUCH_LOWER_RATE = Remedy(
    id="lr_scale",
    advice="divide the learning rates by ten.",
    changes=tuple(Change(key, "multiply", 0.1, low=1e-7, high=1.0) for key in _RATES),
    verification=Verification("update/median", "<", 0.05, within_steps=300),
)
HIGHER_RATE = Remedy(
    id="lr_scale",
    advice="double the learning rates, or start again with ten times the rate.",
    changes=tuple(Change(key, "multiply", 2.0, low=1e-7, high=1.0) for key in _RATES),
    verification=Verification("update/median", ">", 1e-3, within_steps=300),
)
TIGHTER_CLIP = Remedy(
    id="grad_clip",
    advice="clip gradients at half the norm.",
    changes=(Change("trainer.gradient_clip_val", "multiply", 0.5, low=0.1, high=10.0),),
    verification=Verification("grad/norm_max", "<", 10.0, within_steps=300),
)
ROLL_BACK = Remedy(
    id="rollback_last_good",
    advice="go back to the last checkpoint from before it began.",
    action="rollback",
    verification=Verification("loss/nonfinite", "<", 0.5, within_steps=100),
)
SKIP_BATCHES = Remedy(
    id="skip_batches",
    advice="skip the next batches: the data, not the weights, may be at fault.",
    action="skip_batches",
    verification=Verification("loss/nonfinite", "<", 0.5, within_steps=100),
)
STOP_EARLY = Remedy(id="early_stop", advice="stop here and use checkpoints/best.ckpt.", action="early_stop")
STOP = Remedy(id="stop_run", advice="stop: what is measured from here on means nothing.", action="stop")


def calm_memory(signal: str, limit: float) -> tuple[Remedy, Remedy]:
    """Return what makes the inner steps of a memory smaller; it worked once `signal` is below `limit` again.

    Args:
        signal: of the memory that is out of bounds, such as `memory/block0/write`.
        limit: the one that it crossed.
    """
    worked = Verification(signal, "<", limit, within_steps=300)
    smaller_step = Remedy(
        id="memory_lr_scale",
        advice="halve the cap of the memory's inner step size.",
        changes=(Change("model.memory.max_step_size", "multiply", 0.5, low=0.1, high=1.0),),
        verification=worked,
    )
    tighter_clip = Remedy(
        id="memory_max_grad_norm",
        advice="cap the memory's inner gradients at norm 1.",
        changes=(Change("model.memory.max_inner_grad", "set", 1.0, low=0.1, high=10.0),),
        verification=worked,
    )
    return smaller_step, tighter_clip


def advise(text: str) -> Remedy:
    """Return what only a person can do."""
    return Remedy(id="advise", advice=text)
