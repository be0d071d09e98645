"""Sample text from a run: the prompt is read once, then each byte costs the same, however long the text grows."""

import codecs
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from titans_trm.config import load_config
from titans_trm.data.registry import make_task
from titans_trm.errors import InputError
from titans_trm.models.generation import generate
from titans_trm.tasks.build import build_model
from titans_trm.tasks.evaluate import RUNS
from titans_trm.training.checkpoint_io import load_model_weights
from titans_trm.training.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """How bytes are chosen."""

    prompt: str
    length: int = 300  # bytes of each sample
    samples: int = 1  # written side by side
    temperature: float = 0.8  # 0 always takes the most likely byte, 1 draws as learned
    top_k: int | None = None  # draw among so many most likely bytes
    top_p: float | None = None  # draw among the fewest bytes that hold this share of the probability
    seed: int = 0  # of the choice of bytes


@dataclass(frozen=True)
class Speed:
    """What sampling cost, wall clock."""

    prompt_tokens: int
    seconds_to_first: float  # reading the prompt and choosing the first byte
    tokens: int  # after the first, of all samples
    seconds: float  # for these

    def __str__(self) -> str:
        start = f"{self.prompt_tokens} prompt bytes in {self.seconds_to_first:.2f} s"
        return f"{start}; then {self.tokens} bytes in {self.seconds:.2f} s: {self.tokens / self.seconds:.1f} bytes/s"


def sample_run(
    run: str, settings: SampleSettings, on_end: Callable[[Speed], None] | None = None
) -> Iterator[list[str]]:
    """Yield the prompt, then text as it comes, one piece for each sample, from the best weights of a text run.

    Args:
        run: run folder, or `latest`.
        settings: prompt and choice of bytes.
        on_end: told the speed after the last byte.

    Raises:
        InputError: the run is of another task or has no checkpoint, or a value is out of range.
    """
    for name, value in (("bytes", settings.length), ("samples", settings.samples)):
        if value < 1:
            raise InputError(f"{name}={value} writes nothing; choose 1 or more.")
    folder = RunFolder.latest(RUNS, with_checkpoint=True) if run == "latest" else RunFolder.open(run)
    config = load_config(folder.path)
    if config.data.task != "text":
        raise InputError(f"{folder.path} is a run of data.task={config.data.task}; only text can be sampled.")
    if not folder.has_checkpoint:
        raise InputError(f"{folder.path} has no checkpoint yet; wait for its first one.")
    model = build_model(config.model, make_task(config.data).spec)
    load_model_weights(model, folder.best_checkpoint if folder.best_checkpoint.is_file() else folder.last_checkpoint)
    prompt = torch.tensor([0, *settings.prompt.encode()])  # 0 stands before the first byte of a document
    # A sampled byte may be a part of a character.
    decoders = [codecs.getincrementaldecoder("utf-8")(errors="replace") for _ in range(settings.samples)]
    tokens = generate(
        model.eval(),
        prompt.expand(settings.samples, -1),
        settings.length,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        forbidden=[0],
        generator=torch.Generator().manual_seed(settings.seed),
    )
    times = [time.perf_counter()]
    for number in range(settings.length):
        try:
            chosen = next(tokens).tolist()
        except ValueError as error:
            raise InputError(str(error)) from None
        times = [*times[:2], time.perf_counter()]
        if number == 0:
            yield [settings.prompt] * settings.samples
        yield [
            decoder.decode(bytes([byte]), final=number == settings.length - 1)
            for decoder, byte in zip(decoders, chosen, strict=True)
        ]
    if on_end is not None and settings.length > 1:
        written = settings.samples * (settings.length - 1)
        on_end(Speed(len(prompt), times[1] - times[0], written, times[2] - times[1]))
