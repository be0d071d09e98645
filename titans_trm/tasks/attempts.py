"""Add to an evaluation what several views of each question, voting, solve in one and in two attempts."""

import dataclasses

from rich.console import Console
from rich.progress import Progress

from titans_trm.data.examples import ExampleSet
from titans_trm.data.registry import make_task
from titans_trm.errors import InputError
from titans_trm.evaluation.attempts import Viewed, model_solver, score_attempts
from titans_trm.evaluation.results import Evaluation
from titans_trm.tasks.scoring import Subject
from titans_trm.training.config import EvaluateConfig


def with_attempts(result: Evaluation, subject: Subject, examples: ExampleSet, config: EvaluateConfig) -> Evaluation:
    """Return `result` with the metrics `pass_at_1` and `pass_at_2`, means over puzzles.

    Raises:
        InputError: the task has no views, or only one.
    """
    task = make_task(subject.run.data)
    if not isinstance(task, Viewed):
        raise InputError(f"views={config.views}: {result.task} is shown in one view only; leave views out.")
    model = subject.model
    training = model.training
    model.eval()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("voting", total=None)
        scores = score_attempts(
            task,
            examples,
            model_solver(model, subject.autocast()),
            views=config.views,
            batch_size=config.batch_size,
            confidence=config.confidence,
            seed=config.seed,
            on_batch=lambda count: progress.advance(bar, count),
        )
    model.train(training)
    return dataclasses.replace(result, metrics=result.metrics | scores)
