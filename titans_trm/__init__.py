"""Tiny Recursive Models with a Titans memory-as-gate backbone: model, data, training, evaluation.

The names in `__all__` are the public API. They are imported on first use, so that `import titans_trm` stays cheap and
free of torch: the command line reports a misspelt key before anything heavy is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from titans_trm.config import compose as compose
    from titans_trm.models.config import TitansTRMConfig as TitansTRMConfig
    from titans_trm.models.generation import generate as generate
    from titans_trm.models.hub import from_pretrained as from_pretrained
    from titans_trm.models.hub import save_pretrained as save_pretrained
    from titans_trm.models.inference import solve as solve
    from titans_trm.models.memory import NeuralMemory as NeuralMemory
    from titans_trm.models.titans_trm import TitansTRM as TitansTRM

__version__ = "0.1.0"

_HOME = {
    "NeuralMemory": "titans_trm.models.memory",
    "TitansTRM": "titans_trm.models.titans_trm",
    "TitansTRMConfig": "titans_trm.models.config",
    "compose": "titans_trm.config",
    "from_pretrained": "titans_trm.models.hub",
    "generate": "titans_trm.models.generation",
    "save_pretrained": "titans_trm.models.hub",
    "solve": "titans_trm.models.inference",
}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public are {', '.join(_HOME)}.")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *_HOME})
