"""The LightningModule: one supervision step = one `training_step` = one optimiser step, under automatic optimisation.

Clipping, accumulation, precision and `global_step` then work as Lightning users expect. The module is glue: the model,
the losses, the optimiser and the slots are plain objects that know nothing of Lightning.
"""

import logging
import time
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from titans_trm.data.batch import Batch
from titans_trm.data.spec import TaskSpec
from titans_trm.diagnostics.observation import Observation
from titans_trm.evaluation.metrics import SolveMetrics
from titans_trm.losses.config import LossConfig
from titans_trm.losses.total import LossTerms, compute_loss
from titans_trm.models.inference import solve
from titans_trm.models.titans_trm import ModelOutput, TitansTRM
from titans_trm.models.trm_wrapper import Carry
from titans_trm.optim.build import build_optimizer, build_scheduler
from titans_trm.optim.config import OptimizerConfig, SchedulerConfig
from titans_trm.training.checkpoint_io import recount_batches
from titans_trm.training.observing import over_ranks
from titans_trm.training.ranks import Ranks
from titans_trm.training.running import RunningMeans
from titans_trm.training.slots import Finished, SlotGroups

logger = logging.getLogger(__name__)

PROGRESS_KEY = "titans_trm"  # of the checkpoint: what Lightning does not know of


class TRMModule(lightning.LightningModule):
    """Train a `TitansTRM` by deep supervision on slots.

    Args:
        model: the network.
        spec: the task: what counts as exactly right, which targets are ignored.
        loss: weights of the loss terms.
        optimizer: name and rates.
        scheduler: warm-up and decay, over `max_steps` optimiser steps.
        max_steps: length of the run.
        config: the whole run as plain dicts, stored in every checkpoint.
        compile_net: compile the network in place once it is on its device.
        class_weights: (V,) factor of each scored token by its target, fitted on the training set; None = all 1.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        model: TitansTRM,
        spec: TaskSpec,
        *,
        loss: LossConfig,
        optimizer: OptimizerConfig,
        scheduler: SchedulerConfig,
        max_steps: int,
        config: dict[str, Any] | None = None,
        compile_net: bool = False,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.spec = spec
        self.loss_config = loss
        self.optimizer_config = optimizer
        self.scheduler_config = scheduler
        self.max_steps = max_steps
        self.compile_net = compile_net
        self.slots: SlotGroups | None = None
        self.ranks = Ranks()
        self.running = RunningMeans()
        self.observed: Observation | None = None  # the newest step over all ranks, for whoever watches the run
        self.keep_before = False  # whether `observed` holds the carry that the step began with
        self.grad_norm: Tensor | None = None  # of the newest optimiser step, before clipping
        self.val_metrics = SolveMetrics(
            spec.ignore_index, valid=spec.valid, bits_per_byte=spec.headline == "bits_per_byte"
        )
        self._restored: dict[str, Any] | None = None
        # Not persistent: the weights follow from the training set, which a resumed run reads again.
        self.register_buffer("class_weights", class_weights, persistent=False)
        # Plain dicts only: anything else could not be read with weights_only=True.
        self.save_hyperparameters({"model": model.config.to_dict(), "run": config or {}})

    def on_fit_start(self) -> None:
        """Compile on the final device, fill the slots anew or from the checkpoint."""
        if self.compile_net:
            for net in (self.model.recursion.net, self.model.recursion.net_y):
                if net is not None:
                    net.compile()
        self.ranks = Ranks(self.trainer.global_rank, self.trainer.world_size)
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        self.slots = datamodule.make_slots(self.model, self.ranks)
        if self._restored is not None:
            self._tell_of_spreading(self._restored)
            self.slots.load_state_dict(self._restored["slots"], self.device)
            self.running.load_state_dict(self._restored["running"])

    def on_train_start(self) -> None:
        """Go on with the saved random state, only now: the data loaders have drawn from it meanwhile."""
        if self._restored is not None:
            torch.set_rng_state(self._restored["rng"].cpu())
            self._restored = None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Run one supervision step of every slot; `batch` is only Lightning's tick, the slots hold the examples."""
        assert self.slots is not None
        slots = self.slots.next()
        started = time.perf_counter()
        examples, carry = slots.fill(self.device)
        waited = time.perf_counter() - started
        output = self.model(examples.inputs, carry, examples.puzzle_ids)
        terms = self._loss(output, examples)
        finished = slots.advance(output)
        before = carry if self.keep_before else None
        self.observed = over_ranks(_observe(terms, output, finished, examples, waited, before), self.ranks)
        self._record(self.observed)
        return terms.total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Solve a batch with all supervision steps; the adaptive result follows from the same logits."""
        solution = solve(self.model, batch.inputs, batch.puzzle_ids, keep_steps=True)
        self.val_metrics.update(solution, batch.targets, batch.inputs)

    def on_validation_epoch_end(self) -> None:
        """Log what the validation subset says."""
        values = self.val_metrics.compute()
        self.val_metrics.reset()
        # Equal on all ranks already; Lightning warns where it is not told to average.
        self.log_dict({f"val/{name}": value for name, value in values.items()}, sync_dist=True)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Record the gradient's norm before clipping."""
        squares = [p.grad.detach().float().square().sum() for p in self.model.parameters() if p.grad is not None]
        total = torch.stack(squares).sum() if squares else torch.zeros((), device=self.device)
        self.grad_norm = (self.ranks.gather(total).sum() if self._sharded else total).sqrt()
        self.running.add("grad_norm", self.grad_norm)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by the norm over all shards where gradients are sharded, which Lightning leaves to the module."""
        if self._sharded and gradient_clip_val is not None:
            self.trainer.strategy.model.clip_grad_norm_(gradient_clip_val)  # type: ignore[union-attr, operator]
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    @property
    def _sharded(self) -> bool:
        return isinstance(self.trainer.strategy, FSDPStrategy)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build the optimiser and its schedule, one rate per group, one step per optimiser step."""
        # Under mixed precision, bf16 included, Lightning refuses to clip the gradients of a fused AdamW, which would
        # unscale them by itself.
        fused = False if self.trainer.precision in ("16-mixed", "bf16-mixed") else None
        optimizer = build_optimizer(self.model, self.optimizer_config, fused=fused)
        scheduler = build_scheduler(optimizer, self.scheduler_config, self.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put into the checkpoint what Lightning does not know of: slots and running means."""
        if self.slots is not None:
            checkpoint[PROGRESS_KEY] = {
                "slots": self.slots.state_dict(),  # of all ranks, as each of them calls this
                "running": self.running.state_dict(),
                "rng": torch.get_rng_state(),
                "world_size": self.ranks.world_size,
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of the slots until they exist."""
        if PROGRESS_KEY in checkpoint:
            self._restored = checkpoint[PROGRESS_KEY]
            before, now = len(self._restored["slots"]["groups"]), self.trainer.accumulate_grad_batches
            recount_batches(checkpoint, before, now)

    def _tell_of_spreading(self, saved: dict[str, Any]) -> None:
        groups = saved["slots"]["groups"]
        before = (saved.get("world_size", 1), len(groups))
        now = (self.ranks.world_size, self.trainer.accumulate_grad_batches)
        if before != now and self.ranks.rank == 0:
            slots = sum(len(group["halted"]) for group in groups)
            logger.info(
                "%d slots, of %d processes x %d batches, go on in %d x %d: the same examples in the same order, "
                "results equal up to the order of sums",
                *(slots, *before, *now),
            )

    def _loss(self, output: ModelOutput, examples: Batch) -> LossTerms:
        return compute_loss(
            output.logits,
            output.halting_logits,
            examples.targets,
            self.loss_config,
            detached_halting_logits=self.model.act_head(output.halting_features.detach()),
            undecided=output.carry.steps < self.model.config.halting.max_supervision_steps,
            step=self.global_step,
            ignore_index=self.spec.ignore_index,
            all_gather=self.ranks.gather_with_gradient if self.ranks.world_size > 1 else None,
            class_weights=self.class_weights,
        )

    def _record(self, seen: Observation) -> None:
        """Add this step to the running means; accuracy and depth are over examples that finished in it."""
        add = self.running.add
        add("loss", seen.total)
        add("cross_entropy", seen.cross_entropy)
        add("halting_loss", seen.halting)
        add("diversity_loss", seen.diversity)
        add("halting_std", seen.halting_logits.float().std(unbiased=False))
        done = seen.halted.float()
        add("exact_accuracy", (seen.right.float() * done).sum(), done.sum())
        add("token_accuracy", (seen.token_accuracy * done).sum(), done.sum())
        add("mean_supervision_steps", (seen.steps.float() * done).sum(), done.sum())


def _observe(
    terms: LossTerms,
    output: ModelOutput,
    finished: Finished,
    examples: Batch,
    waited: float,
    before: Carry | None,
) -> Observation:
    return Observation(
        total=terms.total.detach(),
        cross_entropy=terms.cross_entropy.detach(),
        halting=terms.halting.detach(),
        diversity=terms.diversity.detach(),
        example_cross_entropy=terms.example_cross_entropy,
        right=terms.exactly_right,
        token_accuracy=terms.token_accuracy,
        halting_logits=output.halting_logits.detach(),
        steps=finished.steps,
        halted=finished.halted,
        examples=examples,
        carry=output.carry,
        wait_seconds=waited,
        before=before,
    )
