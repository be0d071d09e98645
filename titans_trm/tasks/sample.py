"""Sample text from a run: byte after byte, each from all that fits into the window the model was trained on."""

import codecs
from collections.abc import Iterator

import torch

from titans_trm.config import load_config
from titans_trm.data.registry import make_task
from titans_trm.errors import InputError
from titans_trm.models.inference import solve
from titans_trm.tasks.build import build_model
from titans_trm.tasks.evaluate import RUNS
from titans_trm.training.checkpoint_io import load_model_weights
from titans_trm.training.run_folder import RunFolder


def sample_run(run: str, *, prompt: str, length: int, temperature: float, seed: int) -> Iterator[str]:
    """Yield the prompt, then up to `length` bytes of text as they come, from the best weights of a text run.

    Raises:
        InputError: the run is of another task or has no checkpoint, or a value is out of range.
    """
    if length < 1:
        raise InputError(f"bytes={length} writes nothing; choose 1 or more.")
    if temperature < 0.0:
        raise InputError(f"temperature={temperature} is negative; choose 0 (most likely byte) to 1 (as learned).")
    folder = RunFolder.latest(RUNS, with_checkpoint=True) if run == "latest" else RunFolder.open(run)
    config = load_config(folder.path)
    if config.data.task != "text":
        raise InputError(f"{folder.path} is a run of data.task={config.data.task}; only text can be sampled.")
    if not folder.has_checkpoint:
        raise InputError(f"{folder.path} has no checkpoint yet; wait for its first one.")
    spec = make_task(config.data).spec
    model = build_model(config.model, spec)
    load_model_weights(model, folder.best_checkpoint if folder.best_checkpoint.is_file() else folder.last_checkpoint)
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a sampled byte may be half of a character
    tokens = [0, *prompt.encode()]  # 0 stands before the first byte of a document
    yield prompt
    for _ in range(length):
        inputs = torch.tensor(tokens[-spec.seq_len :])[None]
        logits = solve(model, inputs).logits[0, -1].float()
        logits[0] = -torch.inf  # not a byte of text
        if temperature == 0.0:
            tokens.append(int(logits.argmax()))
        else:
            tokens.append(int(torch.multinomial((logits / temperature).softmax(dim=0), 1, generator=generator)))
        yield decoder.decode(bytes([tokens[-1]]))
