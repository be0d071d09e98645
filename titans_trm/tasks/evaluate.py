"""`evaluate.py`: score the averaged weights of a run on a split or a file, behind guards that keep the score honest."""

import dataclasses
import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from titans_trm.config import compose, config_dir, load_config
from titans_trm.data.examples import ExampleSet
from titans_trm.data.load import TaskData, load_data, read_examples
from titans_trm.errors import InputError
from titans_trm.evaluation.criteria import Verdict, judge
from titans_trm.evaluation.guard import count_shared, without_training_examples
from titans_trm.evaluation.ledger import NAME as LEDGER
from titans_trm.evaluation.ledger import append_use, read_ledger
from titans_trm.evaluation.results import Evaluation, Guard
from titans_trm.evaluation.screen import show
from titans_trm.schema import build
from titans_trm.tasks.attempts import with_attempts
from titans_trm.tasks.build import build_model
from titans_trm.tasks.hardware import device_of, on_this_machine
from titans_trm.tasks.report import write_report
from titans_trm.tasks.scoring import Subject, file_sha256, score
from titans_trm.training.checkpoint_io import load_model_weights
from titans_trm.training.config import EvaluateConfig, RunConfig
from titans_trm.training.datamodule import seeded_subset
from titans_trm.training.environment import git_state
from titans_trm.training.run_folder import RunFolder, to_plain, write_json

RUNS = "runs"  # where `run=latest` looks
NOT_MET = 3  # exit status under strict=true
RESERVED = (
    "val",
    "test",
    "train_probe",
    "criteria",
    "robustness",
    "scaling",
    "scaling_test",
)  # names that a file's results may not take

_MODES = {"both": ("full", "adaptive"), "full": ("full",), "adaptive": ("adaptive",)}

logger = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Score a run, write `evaluation/<split>.json`, `criteria.json` and `report.html`; return the first.

    Raises:
        InputError: no such run, weights of another run, changed data, training examples among those to be scored, or
            a test split that is locked.
    """
    config = on_this_machine(config)
    folder, checkpoint = find_weights(config)
    run = load_config(folder.path)
    config = with_criteria(config, run.experiment)
    subject, name, examples, guard = open_examples(config, folder, run, checkpoint)
    result = score(subject, name, examples, guard, config, modes=_MODES[config.halting])
    if config.views > 1:
        result = with_attempts(result, subject, examples, config)
    _write(folder, result)
    verdict = _judge(config, subject, result)
    show(result, verdict)
    pages = [write_report(folder)] if config.report else []
    for path in (*pages, folder.evaluation(name)):
        Console().print(str(path), soft_wrap=True, highlight=False)
    missed = config.strict and verdict is not None and not verdict.met
    return to_plain(dataclasses.asdict(result)) | ({"exit_status": NOT_MET} if missed else {})


def read_evaluation(folder: RunFolder, split: str) -> Evaluation | None:
    """Return the evaluation of `split` in a run's folder; None where there is none.

    Raises:
        InputError: the file is damaged or of another version.
    """
    path = folder.evaluation(split)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); evaluate the run again.") from None
    try:
        return build(Evaluation, values)
    except InputError as error:
        raise InputError(f"{path} was written by another version ({error}) Evaluate the run again.") from None


def find_weights(config: EvaluateConfig) -> tuple[RunFolder, Path]:
    """Return the run and the checkpoint to score: the best by validation, else the last."""
    if config.ckpt is not None:
        checkpoint = Path(config.ckpt)
        if not checkpoint.is_file():
            raise InputError(f"ckpt={checkpoint} does not exist; give a file such as RUN/checkpoints/best.ckpt.")
        home = checkpoint.resolve().parent.parent
        if not RunFolder(home).config.is_file():
            raise InputError(
                f"ckpt={checkpoint} does not lie in the folder checkpoints/ of a run, so nobody knows what it was "
                "trained on; give RUN/checkpoints/NAME.ckpt."
            )
        if config.run != "latest" and Path(config.run).resolve() != home:
            raise InputError(
                f"ckpt={checkpoint} is of the run {home}, not of run={config.run}; leave one of the two away."
            )
        return RunFolder.open(home), checkpoint
    folder = RunFolder.latest(RUNS, with_checkpoint=True) if config.run == "latest" else RunFolder.open(config.run)
    if not folder.has_checkpoint:
        raise InputError(f"run={folder.path} has no checkpoint yet; wait for its first one, or choose another run.")
    best = folder.best_checkpoint
    return folder, best if best.is_file() else folder.last_checkpoint


def open_examples(
    config: EvaluateConfig, folder: RunFolder, run: RunConfig, checkpoint: Path
) -> tuple[Subject, str, ExampleSet, Guard]:
    """Return the run with its weights, and name and examples of what may be scored, after all guards.

    A use of the test split is written down here, before it happens.

    Raises:
        InputError: as `evaluate`.
    """
    data = load_data(run.data)
    _check_data(data, folder)
    subject = _load(config, folder, run, data, checkpoint)
    name, examples = _choose_examples(config, run, data)
    examples, guard = _guard(config, subject, name, examples)
    return subject, name, examples, guard


def with_criteria(config: EvaluateConfig, experiment: str) -> EvaluateConfig:
    """Replace `criteria=auto` by the experiment's own, or the default; what the user typed stays on top."""
    if config.criteria.name != "auto":
        return config
    name = experiment if (config_dir() / "criteria" / f"{experiment}.yaml").is_file() else "default"
    kept = [override for override in config.overrides if override.partition("=")[0] != "criteria"]
    return dataclasses.replace(config, criteria=compose("evaluate", [*kept, f"criteria={name}"]).criteria)


def _check_data(data: TaskData, folder: RunFolder) -> None:
    """Refuse data that are not those of the run: its splits would not be the same."""
    then = json.loads(folder.data_manifest.read_text(encoding="utf-8"))["splits"]
    now = data.manifest["splits"]
    changed = [name for name in then if then[name] != now.get(name)]
    if changed:
        raise InputError(
            f"the data have changed since {folder.path} was trained (splits {', '.join(changed)}); "
            "put the files back as they were, or train again."
        )


def _load(config: EvaluateConfig, folder: RunFolder, run: RunConfig, data: TaskData, checkpoint: Path) -> Subject:
    """Return the run with its weights; a checkpoint of another run is refused, since its training data are not ours."""
    model = build_model(run.model, data.spec)
    loaded = load_model_weights(model, checkpoint)
    theirs = loaded["hyper_parameters"].get("run", {})
    ours = run.to_dict()
    other = [
        key for key in ("experiment", "seed", "data", "model") if key in theirs and _differ(theirs[key], ours[key])
    ]
    if other:
        raise InputError(
            f"{checkpoint} is of another run than {folder.path}: {', '.join(other)} differ, so its training examples "
            "are not known here; score it in its own folder."
        )
    return Subject(
        folder=folder,
        run=run,
        data=data,
        model=model.to(device_of(config)),
        checkpoint=checkpoint,
        checkpoint_sha256=file_sha256(checkpoint),
        global_step=int(loaded["global_step"]),
    )


def _differ(one: Any, other: Any) -> bool:
    """Return whether two configurations differ in a key they both have; a newer version may have more keys."""
    if isinstance(one, dict) and isinstance(other, dict):
        return any(_differ(one[key], other[key]) for key in one.keys() & other.keys())
    return bool(one != other)


def _choose_examples(config: EvaluateConfig, run: RunConfig, data: TaskData) -> tuple[str, ExampleSet]:
    """Return the name and the examples that are scored."""
    if config.file is not None:
        examples, _ = read_examples(config.file, run.data)
        name = Path(config.file).name.split(".")[0]
        chosen = f"file_{name}" if name in RESERVED else name, examples
    elif config.split == "test":
        chosen = "test", data.test()
    else:
        chosen = config.split, data.val if config.split == "val" else _probe(data, config)
    name, examples = chosen
    if config.max_examples is not None:
        examples = seeded_subset(examples, config.max_examples, config.seed)
    return name, examples


def _probe(data: TaskData, config: EvaluateConfig) -> ExampleSet:
    """Return a seeded sample of the training examples as they are, without augmentation, as large as validation."""
    size = len(data.val) if config.max_examples is None else min(config.max_examples, len(data.val))
    return seeded_subset(data.train, size, config.seed).renamed("train_probe")


def _guard(config: EvaluateConfig, subject: Subject, name: str, examples: ExampleSet) -> tuple[ExampleSet, Guard]:
    """Return the examples that may be scored; write down a use of the test split."""
    data, dropped, use = subject.data, 0, None
    if name != "train_probe":
        examples, dropped = without_training_examples(
            examples, data.train, overlap=config.overlap, run=str(subject.folder.path)
        )
    if name == "test":
        use = _use_test_split(config, subject, examples, "split=test")
    elif config.file is not None and (shared := count_shared(examples, data.test())):
        use = _use_test_split(config, subject, examples, f"{shared} of the {len(examples)} examples of {config.file}")
    shared_with_val = 0 if name in ("val", "train_probe") else count_shared(examples, data.val)
    if shared_with_val:
        logger.warning(
            "%d of %d examples belong to groups of the validation set, by which %s was chosen.",
            shared_with_val,
            len(examples),
            subject.checkpoint.name,
        )
    return examples, Guard(
        train_examples=len(data.train),
        train_groups=len(set(data.train.keys)),
        keys_sha256=data.train.keys_sha256,
        dropped=dropped,
        shared_with_val=shared_with_val,
        test_use=use,
    )


def _use_test_split(config: EvaluateConfig, subject: Subject, examples: ExampleSet, what: str) -> int:
    """Write a use of the test split into the ledger before it happens, and return which use of this run it is."""
    ledger = subject.folder.path / "evaluation" / LEDGER
    if not config.final:
        raise InputError(
            f"{what}: the test split is locked, since every look at it makes it less of a test. Choose on split=val; "
            f"when all is decided, add final=true (written down in {ledger})."
        )
    earlier = read_ledger(ledger)
    if earlier:
        last = f"{earlier[-1]['date']}, {earlier[-1]['checkpoint']}"
        if config.reason is None or not config.reason.strip():
            raise InputError(
                f"the test split was used before for {subject.folder.path} ({len(earlier)} times, last {last}); a "
                "result picked from several looks is too good. If it must be, say why with reason='...'."
            )
        logger.warning("Use %d of the test split for this run (last %s).", len(earlier) + 1, last)
    if others := _uses_by_others(subject, examples):
        logger.warning("Other runs under %s have looked at these test examples %d times.", RUNS, others)
    state = git_state(Path(__file__).resolve().parents[2]) or {"commit": None, "dirty": None}
    return append_use(
        ledger,
        {
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "commit": state["commit"],
            "dirty": state["dirty"],
            "checkpoint": subject.checkpoint.name,
            "checkpoint_sha256": subject.checkpoint_sha256,
            "global_step": subject.global_step,
            "examples": what,
            "n": len(examples),
            "examples_sha256": examples.sha256,
            "reason": config.reason,
        },
    )


def _uses_by_others(subject: Subject, examples: ExampleSet) -> int:
    """Return how often other runs under `RUNS` have used the same examples as a test set."""
    own = subject.folder.path.resolve()
    ledgers = [path for path in Path(RUNS).glob(f"*/*/evaluation/{LEDGER}") if path.resolve().parents[1] != own]
    return sum(use.get("examples_sha256") == examples.sha256 for path in ledgers for use in read_ledger(path))


def _judge(config: EvaluateConfig, subject: Subject, result: Evaluation) -> Verdict | None:
    """Hold validation or test against the criteria and add the verdict to `criteria.json`; None for other sets.

    The train probe is solved where the gap asks for it, unless its results are there already.
    """
    if result.split not in ("val", "test"):
        return None
    validation = result if result.split == "val" else _same_weights(subject, "val")
    probe = None
    if validation is not None and config.criteria.gap is not None:
        probe = _probe_results(config, subject, validation)
    verdict = judge(result, validation, probe, config.criteria)
    path = subject.folder.evaluation("criteria")
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, known | {result.split: dataclasses.asdict(verdict)})
    return verdict


def _probe_results(config: EvaluateConfig, subject: Subject, validation: Evaluation) -> Evaluation:
    """Return the results on as many clean training examples as were validated, solved in the same way."""
    examples = _probe(subject.data, dataclasses.replace(config, max_examples=validation.n, seed=validation.seed))
    found = _same_weights(subject, "train_probe")
    if found is not None and found.examples_sha256 == examples.sha256 and found.confidence == validation.confidence:
        return found
    examples, guard = _guard(config, subject, "train_probe", examples)
    modes = ("full",) if "full" in validation.halting else ("adaptive",)
    probe = score(subject, "train_probe", examples, guard, config, modes=modes, brief=True)
    _write(subject.folder, probe)
    return probe


def _same_weights(subject: Subject, split: str) -> Evaluation | None:
    """Return the earlier results on `split` if they are of this very checkpoint."""
    found = read_evaluation(subject.folder, split)
    return found if found is not None and found.checkpoint_sha256 == subject.checkpoint_sha256 else None


def _write(folder: RunFolder, result: Evaluation) -> None:
    write_json(folder.evaluation(result.split), dataclasses.asdict(result))
