"""From `conf/` to a checked configuration: compose, validate, choose the hardware, open the run folder.

No torch here: a misspelt key is reported before anything heavy is imported.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from titans_trm import schema
from titans_trm.errors import InputError
from titans_trm.overrides import check_overrides, check_variant_keys, explained
from titans_trm.training.config import EvaluateConfig, Precision, ProfileConfig, RunConfig

SCHEMAS: dict[str, type] = {"train": RunConfig, "evaluate": EvaluateConfig, "profile": ProfileConfig}
SMALL_CARD_BYTES = 10 * 2**30  # cards up to this size take the settings of gpu_6gb

AnyConfig = TypeVar("AnyConfig", RunConfig, EvaluateConfig, ProfileConfig)
AnyRun = TypeVar("AnyRun", RunConfig, ProfileConfig)


@dataclass(frozen=True, kw_only=True)
class HardwareFacts:
    """What was found on this machine."""

    cuda: bool = False
    vram_bytes: int = 0  # of the smallest visible card
    mps: bool = False
    bf16: bool = False  # the accelerator multiplies bfloat16 in hardware


def config_dir() -> Path:
    """Return the folder of the YAML files: inside an installed package, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise InputError(f"{here / 'conf'} and {here.parent / 'conf'} hold no train.yaml; reinstall titans-trm.")


@overload
def compose(config_name: Literal["train"] = "train", overrides: Sequence[str] = ()) -> RunConfig: ...
@overload
def compose(config_name: Literal["evaluate"], overrides: Sequence[str] = ()) -> EvaluateConfig: ...
@overload
def compose(config_name: Literal["profile"], overrides: Sequence[str] = ()) -> ProfileConfig: ...
def compose(config_name: str = "train", overrides: Sequence[str] = ()) -> Any:
    """Return the checked configuration that `python <config_name>.py <overrides>` would run, from any folder.

    Raises:
        InputError: an unknown key, group or option, or a value that is not allowed.
    """
    kind, overrides = SCHEMAS[config_name], list(overrides)
    check_overrides(overrides, kind, config_dir() / f"{config_name}.yaml")
    with _hydra(), explained():
        try:
            composed = hydra_compose(config_name, overrides=overrides)
        except ConfigCompositionException:
            check_variant_keys(overrides, kind, functools.partial(hydra_compose, config_name))
            raise
        return validate(composed, kind, overrides=overrides)


def validate(
    composed: DictConfig, kind: type[AnyConfig], *, run_dir: str | None = None, overrides: Sequence[str] = ()
) -> AnyConfig:
    """Return a composed configuration as its checked dataclass.

    Args:
        composed: what Hydra made of the YAML files and the overrides.
        kind: the schema.
        run_dir: takes the place of the composed one (a job of a multirun has its own).
        overrides: what the user typed, kept in the result.

    Raises:
        InputError: an unknown key, a missing one, or a value that is not allowed.
    """
    OmegaConf.set_struct(composed, False)
    composed["overrides"] = list(overrides)
    if "run_dir" in composed:  # fixed before others are resolved: its time stamp must not tick in between
        composed["run_dir"] = composed["run_dir"] if run_dir is None else run_dir
    return schema.build(kind, OmegaConf.to_container(composed, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]


def load_config(path: str | Path) -> RunConfig:
    """Return the configuration of an earlier run from its folder or its `config.yaml`.

    Values are taken as they stand: a `${...}` in a file from elsewhere is text, and no `_target_` is called.
    """
    file = Path(path)
    file = file / "config.yaml" if file.is_dir() else file
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist; give the folder of a run.") from error
    except Exception as error:
        raise InputError(f"{file} is not a readable configuration: {error}") from error
    if not isinstance(values, dict) or not values:
        raise InputError(f"{file} is empty: the run ended before it began; choose another.")
    return schema.build(RunConfig, values)  # type: ignore[arg-type]


def resolve_hardware(name: str, facts: HardwareFacts) -> str:
    """Return the hardware file for this machine: `name` itself, or for `auto` the one that `facts` call for."""
    if name != "auto":
        return name
    if facts.cuda:
        return "gpu_6gb" if facts.vram_bytes <= SMALL_CARD_BYTES else "gpu"
    return "mps" if facts.mps else "cpu"


def resolve_precision(precision: Precision, hardware: str, facts: HardwareFacts) -> Precision:
    """Return what `auto` stands for: bf16 where the card has it, else fp16 with a loss scaler; fp32 off the GPU."""
    if precision != "auto":
        return precision
    if hardware not in ("gpu", "gpu_6gb"):
        return "32-true"
    return "bf16-mixed" if facts.bf16 else "16-mixed"


def resolve_auto_hardware(config: AnyConfig, picked: str) -> AnyConfig:
    """Compose `config` again with `hardware=<picked>`: its values apply, the user's own overrides stay on top.

    A configuration whose hardware is already named is returned as it is.
    """
    if config.hardware.name != "auto":
        return config
    name = next(name for name, kind in SCHEMAS.items() if kind is type(config))
    kept: list[str] = [override for override in config.overrides if override.partition("=")[0] != "hardware"]
    again: Any = compose(name, [*kept, f"hardware={picked}"])  # type: ignore[call-overload]
    again = dataclasses.replace(again, overrides=config.overrides)
    return again if isinstance(config, EvaluateConfig) else with_run_dir(again, config.run_dir)


def with_run_dir(config: AnyRun, run_dir: str | Path) -> AnyRun:
    """Return `config` with another run folder, also inside its callbacks and loggers."""
    new = str(run_dir)

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(item) for key, item in value.items()}
        if isinstance(value, str) and (value == config.run_dir or value.startswith(config.run_dir + "/")):
            return new + value[len(config.run_dir) :]
        return value

    return dataclasses.replace(config, run_dir=new, callbacks=moved(config.callbacks), logger=moved(config.logger))


@contextmanager
def _hydra() -> Iterator[None]:
    """Initialise Hydra on `config_dir()`; also from within a job, whose own Hydra is put back afterwards."""
    outer, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
            yield
    finally:
        GlobalHydra.instance().hydra = outer
