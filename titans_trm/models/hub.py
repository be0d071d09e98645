"""Save a model as safetensors and JSON, and build it again: loading never executes code."""

import json
import os
from pathlib import Path

from safetensors.torch import load_file, save_file

from titans_trm.errors import InputError
from titans_trm.models.config import TitansTRMConfig
from titans_trm.models.titans_trm import TitansTRM

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def save_pretrained(model: TitansTRM, folder: str | Path) -> Path:
    """Write `config.json` and `model.safetensors` into `folder`, each complete or not at all; return the folder."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    partial_weights = target / f"{WEIGHTS_FILE}.partial"
    save_file(weights, partial_weights)
    partial_config = target / f"{CONFIG_FILE}.partial"
    partial_config.write_text(json.dumps(model.config.to_dict(), indent=2) + "\n", encoding="utf-8")
    os.replace(partial_weights, target / WEIGHTS_FILE)
    os.replace(partial_config, target / CONFIG_FILE)
    return target


def from_pretrained(folder: str | Path) -> TitansTRM:
    """Build the model that `save_pretrained` wrote to `folder`, on the CPU, ready for inference.

    Raises:
        InputError: a file is missing or damaged, or the weights are of another model.
    """
    source = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (source / name).is_file():
            raise InputError(f"{source / name} does not exist; give a folder that save_pretrained wrote.")
    try:
        config = TitansTRMConfig.from_dict(json.loads((source / CONFIG_FILE).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{source / CONFIG_FILE} is not a configuration of this model: {error}") from error
    try:
        weights = load_file(source / WEIGHTS_FILE)
    except Exception as error:  # safetensors raises its own, undocumented type for damaged files
        raise InputError(f"{source / WEIGHTS_FILE} is damaged: {error}") from error
    model = TitansTRM(config)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{source / WEIGHTS_FILE} does not fit {source / CONFIG_FILE}: {error}") from error
    return model.eval()
