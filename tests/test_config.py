"""The configuration: all of conf/ composes, every mistake is named, the hardware lies below the user's own words."""

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from titans_trm import schema
from titans_trm.config import (
    SCHEMAS,
    HardwareFacts,
    compose,
    config_dir,
    load_config,
    resolve_auto_hardware,
    resolve_hardware,
    resolve_precision,
    with_run_dir,
)
from titans_trm.errors import InputError
from titans_trm.overrides import expand_sweep
from titans_trm.training.config import (
    BudgetConfig,
    EvaluateConfig,
    HardwareConfig,
    ModelSettings,
    ProfileConfig,
    RunConfig,
    TrainerConfig,
    parse_bytes,
)

CONF = config_dir()
FILES = sorted(CONF.rglob("*.yaml"))
EXPERIMENTS = sorted(
    file.relative_to(CONF / "experiment").with_suffix("").as_posix() for file in (CONF / "experiment").rglob("*.yaml")
)
DEBUG = sorted(file.stem for file in (CONF / "debug").glob("*.yaml"))
GROUPS = [
    "data",
    "model",
    "optimizer",
    "scheduler",
    "trainer",
    "hardware",
    "callbacks",
    "logger",
    "sweep",
    "experiment",
    "debug",
]
GIB = 2**30


@pytest.fixture(autouse=True)
def _no_run_dir_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TITANS_TRM_RUN_DIR", raising=False)


# --- what is shipped


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_carries_its_own_name(experiment: str) -> None:
    config = compose("train", [f"experiment={experiment}"])
    assert config.experiment == experiment
    assert re.fullmatch(rf"runs/{experiment}/\d{{4}}-\d\d-\d\d_\d\d-\d\d-\d\d", config.run_dir)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_first_prose_line_of_an_experiment_is_its_command(experiment: str) -> None:
    lines = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"  # Hydra reads this line; it must come first
    program, script, *overrides = shlex.split(lines[1].removeprefix("# "))
    assert (program, script) == ("python", "train.py")
    assert compose("train", overrides).experiment == experiment


@pytest.mark.parametrize("debug", DEBUG)
def test_every_debug_file_composes_and_asks_for_full_tracebacks(debug: str) -> None:
    lines = (CONF / "debug" / f"{debug}.yaml").read_text().splitlines()
    config = compose("train", shlex.split(lines[1])[3:])
    assert config.debug
    assert lines[1].endswith(f"debug={debug}")


@pytest.mark.parametrize("group", [group for group in GROUPS if group not in ("experiment", "debug")])
def test_every_option_of_every_group_composes(group: str) -> None:
    for file in (CONF / group).glob("*.yaml"):
        needs = ["data.train_file=train.csv"] if file.stem == "sudoku_extreme" else []
        compose("train", [f"{group}={file.stem}", *needs])


@pytest.mark.parametrize("limits", sorted((CONF / "hardware" / "limits").glob("*.yaml")), ids=lambda file: file.stem)
def test_limits_are_named_after_a_hardware_and_a_model_and_apply_to_both(limits: Path) -> None:
    pairs = [
        (hardware.stem, model.stem)
        for hardware in (CONF / "hardware").glob("*.yaml")
        for model in (CONF / "model").glob("*.yaml")
        if f"{hardware.stem}_{model.stem}" == limits.stem
    ]
    (hardware, model), *rest = pairs
    assert not rest
    said = yaml.safe_load(limits.read_text())
    config = compose("train", [f"model={model}", f"hardware={hardware}"])
    assert config.trainer.batch_size == said["trainer"]["batch_size"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_key_of_the_schema_is_in_the_yaml_files(name: str) -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        composed = OmegaConf.to_container(hydra_compose(name), resolve=True)
    assert _missing(SCHEMAS[name], composed) == ["overrides"]


def _missing(kind: Any, values: Any, path: str = "") -> list[str]:
    found: list[str] = []
    for field in dataclasses.fields(kind):
        if field.name not in values:
            found.append(path + field.name)
        elif dataclasses.is_dataclass(field.type):
            found += _missing(field.type, values[field.name], f"{path}{field.name}.")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_every_value_in_conf_has_a_comment_on_its_line(file: Path) -> None:
    bare = [
        line
        for line in file.read_text().splitlines()
        if re.match(r"\s*\w+:\s*[^\s#]", line) and " # " not in line and not line.lstrip().startswith("#")
    ]
    assert not bare


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_every_file_in_conf_begins_by_saying_what_it_is(file: Path) -> None:
    prose = [line for line in file.read_text().splitlines()[:3] if line.startswith("# ") and "@package" not in line]
    assert prose


def test_presets_have_the_loops_of_the_paper() -> None:
    model = compose("train", ["experiment=trm_7m_sudoku"]).model
    assert (model.recursion.num_latent_steps, model.recursion.num_recursions) == (6, 3)
    assert (model.halting.max_supervision_steps, model.backbone.num_blocks, model.width) == (16, 2, 512)
    assert model.backbone.gate == "attention_only"
    assert compose("train", ["experiment=quickstart"]).model.backbone.gate != "attention_only"


def test_composing_works_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert compose("train", ["experiment=quickstart"]).data.size == 4
    assert not list(tmp_path.iterdir())


def test_composing_inside_another_hydra_leaves_it_as_it_was() -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        outer = GlobalHydra.instance().hydra
        compose("train")
        assert GlobalHydra.instance().hydra is outer
    GlobalHydra.instance().clear()


def test_compose_returns_the_class_of_each_entry_point() -> None:
    assert type(compose("train")) is RunConfig
    assert type(compose("evaluate", ["split=test", "final=true"])) is EvaluateConfig
    profiled = compose("profile", ["experiment=trm_25m", "profile.budgets.peak_memory=6GiB"])
    assert type(profiled) is ProfileConfig
    assert profiled.profile.budgets == BudgetConfig(parameters=(24_000_000, 26_000_000), peak_memory="6GiB")
    assert profiled.run_dir.startswith("runs/profile/")


def test_the_run_folder_can_be_named_by_the_environment_or_by_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compose("train", ["run_dir=here"]).logger["tensorboard"]["save_dir"] == "here"
    monkeypatch.setenv("TITANS_TRM_RUN_DIR", "there")
    assert compose("train").run_dir == "there"


# --- mistakes


@pytest.mark.parametrize("group", GROUPS)
def test_a_misspelt_option_of_any_group_lists_the_options_and_guesses(group: str) -> None:
    options = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
    with pytest.raises(InputError) as caught:
        compose("train", [f"{group}={options[0][:-1]}"])
    message = str(caught.value)
    assert message.startswith(f"{group}={options[0][:-1]} does not exist. Did you mean {group}=")
    assert message.endswith(f"Allowed: {', '.join(options)}.")


def test_a_misspelt_option_of_a_sub_folder_lists_that_folder() -> None:
    with pytest.raises(InputError, match=r"Did you mean experiment=ablation/no_memory\? Allowed: ablation/base, "):
        compose("train", ["experiment=ablation/no_memry"])


SECTIONS = {
    "data.sizze": "data.size",
    "model.widht": "model.width",
    "model.backbone.num_block": "model.backbone.num_blocks",
    "model.recursion.num_latent_step": "model.recursion.num_latent_steps",
    "loss.diversty": "loss.diversity",
    "optimizer.weight_decy": "optimizer.weight_decay",
    "scheduler.warmup": "scheduler.warmup_steps",
    "trainer.max_stepz": "trainer.max_steps",
    "hardware.device": "hardware.devices",
    "optimiser.lr": "optimizer",
    "sed": "seed",
    "experimnt": "experiment",
}


@pytest.mark.parametrize(("typo", "meant"), SECTIONS.items())
@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_a_misspelt_key_is_named_with_the_nearest_one(typo: str, meant: str, sign: str) -> None:
    with pytest.raises(InputError, match=rf"is not a key\. Did you mean {re.escape(meant)}\? Allowed: "):
        compose("train", [f"{sign}{typo}=1"])


IMPOSSIBLE = {
    "trainer.batch_size=0": "trainer.batch_size=0 is too small; choose 1 or more.",
    "trainer.max_time=-1": "trainer.max_time=-1.0 must be greater than 0 (minutes), or null for none.",
    "trainer.max_steps=many": "trainer.max_steps='many' is not an integer.",
    "trainer.compile=perhaps": "trainer.compile='perhaps' is not true or false.",
    "trainer.ema_decay=1": "trainer.ema_decay=1.0 is outside (0, 1)",
    "trainer.val_time_share=0": "trainer.val_time_share=0.0 is outside (0, 1]",
    "trainer.precision=fp8": "trainer.precision='fp8' is not allowed.",
    "model.backbone.gate=prodct": "model.backbone.gate='prodct' is not allowed. Did you mean product?",
    "model.backbone.num_heads=5": "model.backbone.num_heads=5 does not divide width=512",
    "model.memory.chunk_size=0": "model.memory.chunk_size=0 is too small",
    "model.parameter_budget=[1]": "model.parameter_budget=[1] has 1 entries; it takes 2.",
    "model.parameter_budget=7": "model.parameter_budget=7 is not a list",
    "model.parameter_budget=[2,1]": "model.parameter_budget=(2, 1) has its ends swapped",
    "optimizer.lr=0": "optimizer.lr=0.0 must be greater than 0",
    "optimizer.betas=[0.9,b]": "optimizer.betas[1]='b' is not a number.",
    "loss.label_smoothing=1": "loss.label_smoothing=1.0 is out of range",
    "data.size=5": "data.size=5 is not allowed. Allowed: 4, 6, 9.",
    "data=sudoku_extreme": "data.source=file needs data.train_file",
    "hardware.devices=2": "hardware.devices=2 on num_nodes=1 needs hardware.strategy=ddp",
    "hardware.devices=some": "hardware.devices='some' fits none of its forms: is not an integer; is not allowed",
    "hardware.devices=0": "hardware.devices=0 is too small",
    "seed=-1": "seed=-1 is too small",
    "run_dir=''": "run_dir='' names no folder",
    "model=null": "model=null is not an option; leave it out with ~model. Allowed: ",
    "tags=fine": "tags='fine' is not a list",
    "+logger.csv=3": "logger.csv=3 is not a node with _target_",
    "logger.csv=3": "Could not override 'logger.csv'",
    "seed.x=1": "seed.x is not a key: seed is a value, not a section. Write seed=VALUE.",
    "trainer.max_steps": "'trainer.max_steps' is not an override; write key=value",
    "seed=[": "'seed=[' is not an override",
    "seed=1,2": "Ambiguous value for argument 'seed=1,2'",
    "seed=${nothing}": "nothing",
}


@pytest.mark.parametrize(("override", "message"), IMPOSSIBLE.items())
def test_an_impossible_value_is_named_with_its_cure(override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        compose("train", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["split=train"], "split='train' is not allowed. Did you mean train_probe? Allowed: val, test, train_probe."),
        (["halting_probability=1"], "halting_probability=1.0 is outside (0, 1)"),
        (["confidence=95"], "confidence=95.0 is outside (0, 1)"),
        (["batch_size=0"], "batch_size=0 is too small"),
        (["max_examples=0"], "max_examples=0 is too small"),
        (["rum=latest"], "Did you mean run?"),
    ],
)
def test_evaluate_names_mistakes_too(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        compose("evaluate", overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("profile.budgets.peak_memory=6Gi", "profile.budgets.peak_memory='6Gi' is not a size"),
        ("profile.budgets.parameters=[3,2]", "profile.budgets.parameters=[3, 2] has its ends swapped"),
        ("profile.budgets.latency_p95_ms=0", "profile.budgets.latency_p95_ms=0.0 must be greater than 0"),
        ("profile.repeats=0", "profile.repeats=0 is too small"),
        ("profile.repeat=3", "Did you mean profile.repeats?"),
        ("optimizer=admw", "Did you mean optimizer=adamw?"),
    ],
)
def test_profile_names_mistakes_too(override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        compose("profile", [override])
    assert message in str(caught.value)


# --- the schema


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Inner:
    size: int = 1

    def __post_init__(self) -> None:
        if self.size == 13:
            raise ValueError("unlucky")
        if self.size == 14:
            raise InputError("already explained")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Outer:
    needed: int
    inner: _Inner = dataclasses.field(default_factory=_Inner)
    names: tuple[str, ...] = ()
    word: Literal["off", "on"] = "on"
    free: dict = dataclasses.field(default_factory=dict)
    either: int | str | None = None


def test_the_schema_reads_numbers_as_yaml_writes_them() -> None:
    assert schema.build(_Outer, {"needed": 1e5}).needed == 100_000
    assert schema.build(TrainerConfig, {"max_time": 3}).max_time == 3.0
    assert schema.build(_Outer, {"needed": 1, "word": False}).word == "off"
    assert schema.build(_Outer, {"needed": 1, "names": ["a", 6]}).names == ("a", "6")
    assert schema.build(_Outer, {"needed": 1, "either": None}).either is None
    assert schema.build(_Outer, {"needed": 1, "either": "x"}).either == "x"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "needed is missing and has no default"),
        ({"needed": True}, "needed=True is not an integer."),
        ({"needed": float("inf")}, "needed=inf is not an integer."),
        ({"needed": 1.5}, "needed=1.5 is not an integer."),
        ({"needed": 1, "inner": 3}, "inner=3 is not a section; it holds the keys size."),
        ({"needed": 1, "inner": {"size": 13}}, "inner: unlucky"),
        ({"needed": 1, "inner": {"size": 14}}, "already explained"),
        ({"needed": 1, "free": 3}, "free=3 is not a section of names and values."),
        ({"needed": 1, "names": [True]}, "names[0]=True is not a text."),
    ],
)
def test_the_schema_names_path_value_and_rule(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        schema.build(_Outer, values)


def test_a_configuration_survives_json_and_yaml() -> None:
    config = compose("train", ["experiment=trm_25m", "tags=[a,b]"])
    assert schema.build(RunConfig, json.loads(json.dumps(config.to_dict()))) == config
    assert schema.build(RunConfig, yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


def test_model_settings_make_the_models_configuration() -> None:
    settings = compose("train", ["experiment=quickstart"]).model
    built = settings.build(vocab_size=6, seq_len=16)
    assert (built.width, built.vocab_size, built.memory, built.halting) == (64, 6, settings.memory, settings.halting)
    with pytest.raises(ValueError, match="does not divide"):
        dataclasses.replace(settings, width=65)
    assert (
        ModelSettings(halting=dataclasses.replace(settings.halting, unit="token"))
        .build(vocab_size=5, seq_len=4, causal=True)
        .causal
    )


def test_an_experiment_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="experiment='' names no folder"):
        RunConfig(experiment="")


def test_a_group_can_be_left_out() -> None:
    config = compose("train", ["~callbacks", "~logger"])
    assert (config.callbacks, config.logger) == ({}, {})


def test_loading_gives_back_the_configuration_of_a_run(tmp_path: Path) -> None:
    config = compose("train", ["experiment=quickstart"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
    assert load_config(tmp_path) == load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "does not exist"), ("", "is empty"), ("a: [", "is not a readable"), ("sed: 1", "Did you mean seed?")],
)
def test_loading_names_what_is_wrong_with_the_file(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        load_config(tmp_path / "config.yaml")


@pytest.mark.parametrize(("text", "size"), [("6GiB", 6 * GIB), ("1.5 kb", 1500), ("1024", 1024), ("2MiB", 2**21)])
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert parse_bytes(text, key="x") == size
    assert BudgetConfig(peak_memory=text).peak_memory_bytes == size


def test_no_budget_is_no_bytes() -> None:
    assert BudgetConfig().peak_memory_bytes is None


# --- hardware


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (HardwareFacts(), "cpu"),
        (HardwareFacts(mps=True), "mps"),
        (HardwareFacts(cuda=True, vram_bytes=6 * GIB, mps=True), "gpu_6gb"),
        (HardwareFacts(cuda=True, vram_bytes=10 * GIB), "gpu_6gb"),
        (HardwareFacts(cuda=True, vram_bytes=24 * GIB), "gpu"),
    ],
)
def test_hardware_follows_what_is_found(facts: HardwareFacts, name: str) -> None:
    assert resolve_hardware("auto", facts) == name
    assert resolve_hardware("cpu", facts) == "cpu"


def test_precision_follows_the_card_and_a_named_one_stays() -> None:
    assert resolve_precision("auto", "gpu", HardwareFacts(cuda=True, bf16=True)) == "bf16-mixed"
    assert resolve_precision("auto", "gpu_6gb", HardwareFacts(cuda=True)) == "16-mixed"
    assert resolve_precision("auto", "cpu", HardwareFacts(bf16=True)) == "32-true"
    assert resolve_precision("32-true", "gpu", HardwareFacts(cuda=True, bf16=True)) == "32-true"


def test_the_picked_hardware_lies_below_what_the_user_typed() -> None:
    config = compose("train", ["experiment=trm_25m", "trainer.batch_size=7", "hardware.tf32=false"])
    found = resolve_auto_hardware(config, "cpu")
    assert found.hardware == HardwareConfig(name="cpu", accelerator="cpu", precision="32-true", tf32=False)
    assert (found.trainer.batch_size, found.trainer.max_time) == (7, 30.0)
    assert (found.run_dir, found.overrides) == (config.run_dir, config.overrides)


def test_the_picked_hardware_replaces_an_explicit_auto_and_nothing_else() -> None:
    assert resolve_auto_hardware(compose("train", ["hardware=auto"]), "mps").hardware.name == "mps"
    named = compose("train", ["hardware=gpu"])
    assert resolve_auto_hardware(named, "cpu") is named
    assert resolve_auto_hardware(compose("evaluate"), "cpu").hardware.accelerator == "cpu"


def test_the_small_card_recomputes_and_small_models_keep_their_batch() -> None:
    assert compose("profile", ["experiment=trm_25m", "hardware=gpu_6gb"]).model.recursion.checkpointing
    assert compose("train", ["experiment=quickstart", "hardware=cpu"]).trainer.batch_size == 64


def test_moving_a_run_moves_its_loggers() -> None:
    config = compose(
        "train", ["run_dir=old", "++callbacks.extra={_target_: a.b, where: old/c, near: older, deep: [1]}"]
    )
    moved = with_run_dir(config, "new")
    assert moved.run_dir == moved.logger["tensorboard"]["save_dir"] == "new"
    assert moved.callbacks["extra"] == {"_target_": "a.b", "where": "new/c", "near": "older", "deep": [1]}


# --- sweeps


def test_a_sweep_is_checked_value_by_value() -> None:
    jobs = expand_sweep(["seed=1,2", "optimizer=adamw,muon", "trainer.max_steps=5"])
    assert jobs == [
        ["seed=1", "optimizer=adamw", "trainer.max_steps=5"],
        ["seed=2", "optimizer=adamw", "trainer.max_steps=5"],
        ["seed=1", "optimizer=muon", "trainer.max_steps=5"],
    ]


def test_ranges_and_both_ends_of_intervals_are_checked() -> None:
    jobs = expand_sweep(["seed=range(0,2)", "optimizer.lr=interval(1e-4,1)", "hydra.launcher.jobs=1,2"])
    assert jobs == [
        ["seed=0", "optimizer.lr=0.0001"],
        ["seed=1", "optimizer.lr=0.0001"],
        ["seed=0", "optimizer.lr=1.0"],
    ]


def test_a_wrong_option_inside_a_sweep_is_named() -> None:
    with pytest.raises(InputError, match="optimizer=sgd does not exist"):
        compose("train", ["optimizer=adamw,sgd"])


def test_a_section_of_own_names_takes_any_name_and_checks_what_is_below_it() -> None:
    config = compose("evaluate", ["criteria=quickstart", "criteria.targets.exact_accuracy.at_least=0.5"])
    assert config.criteria.targets["exact_accuracy"].at_least == 0.5
    with pytest.raises(InputError, match=r"criteria\.targets\.exact_accuracy\.atleast is not a key.*at_least"):
        compose("evaluate", ["criteria.targets.exact_accuracy.atleast=0.5"])
