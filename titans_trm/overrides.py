"""Judge command-line overrides before Hydra does: name the key, the options and the nearest word."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from titans_trm.errors import InputError
from titans_trm.schema import has_variants, select_variant, suggest

_SET_BY_THE_ENTRY_POINT = ("overrides",)


def check_overrides(overrides: Sequence[str], kind: type, config_file: Path, *, more: Sequence[Path] = ()) -> None:
    """Check that each override names a group option or a key of the schema `kind`.

    `config_file` is the primary YAML file; groups are the folders beside it that its defaults list uses. `more` holds
    further folders with options of the user. Sweeps (`a,b`) are checked value by value.

    Raises:
        InputError: the override cannot be read, or its group, option or key does not exist.
    """
    groups = _groups(config_file)
    for override in parse(overrides):
        key = override.key_or_group
        if key.partition(".")[0].partition("/")[0] == "hydra":
            continue  # Hydra's own business: launcher, sweeper, folders
        if key in groups:
            folders = [folder / key for folder in (config_file.parent, *more)]
            for option in _values(override):
                _check_option(key, option, folders)
        else:
            _check_key(key, kind, groups)


def check_variant_keys(overrides: Sequence[str], kind: type, compose: Callable[[list[str]], DictConfig]) -> None:
    """Check overrides such as `data.size=4` whose schema a value of the configuration selects (`data.task`).

    `compose` composes a list of overrides. Called when Hydra could not compose all of them, to say it better.

    Raises:
        InputError: a key is not one of the selected schema.
    """
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind) if has_variants(hints[field.name])]
    parsed = parse(overrides)
    prefixes = tuple(f"{name}." for name in names)
    plain = [one.input_line or "" for one in parsed if not one.key_or_group.startswith(prefixes)]
    for name in names:
        inside = [one for one in parsed if one.key_or_group.startswith(f"{name}.")]
        selector, _ = hints[name].variants()
        rest = plain + [one.input_line or "" for one in inside if one.key_or_group == f"{name}.{selector}"]
        schema, selected_by = select_variant(hints[name], compose(rest)[name], name)
        known = [field.name for field in fields(schema)]
        for one in inside:
            part = one.key_or_group.removeprefix(f"{name}.").partition(".")[0]
            if part not in known:
                suggestion = suggest(part, known, prefix=name)
                raise InputError(f"{name}.{part} is not a key. {suggestion} These are the keys of {selected_by}.")


def parse(overrides: Sequence[str]) -> list[Override]:
    """Return the parsed overrides; an unreadable one is an `InputError` that shows it."""
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise InputError(
            f"{error.override!r} is not an override; write key=value (quote texts with commas, equal signs or braces)."
        ) from error


def expand_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Return the jobs to check before a multirun: the first value of every sweep, then each other value by itself.

    Of an interval, both ends.
    """
    choices: list[list[str]] = []
    for override in parse(overrides):
        if override.is_discrete_sweep() and not override.is_hydra_override():
            head = override.get_key_element()
            choices.append([f"{head}={value}" for value in itertools.islice(override.sweep_string_iterator(), 100)])
        elif override.is_interval_sweep():
            ends: Any = override.value()
            choices.append([f"{override.get_key_element()}={end}" for end in (ends.start, ends.end)])
        elif not override.is_sweep_override():
            choices.append([override.input_line or ""])
    first = [values[0] for values in choices]
    others = ((i, value) for i, values in enumerate(choices) for value in values[1:])
    return [first, *([*first[:i], value, *first[i + 1 :]] for i, value in others)]


@contextmanager
def explained() -> Iterator[None]:
    """Turn what Hydra and OmegaConf say about a configuration into one `InputError`."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        causes = [str(error)]
        if isinstance(error.__cause__, OmegaConfBaseException):
            causes.append(str(error.__cause__).partition("\n")[0])
        raise InputError(" ".join(" ".join(causes).split())) from error


def _groups(config_file: Path) -> list[str]:
    """Return the groups of the file's defaults list, those of the configurations it builds on included."""
    entries = OmegaConf.to_container(OmegaConf.load(config_file)).get("defaults", [])  # type: ignore[union-attr]
    groups: list[str] = []
    for entry in entries:
        if isinstance(entry, dict):
            groups += [str(name).split()[-1].partition("@")[0] for name in entry]
        elif entry != "_self_":
            groups += _groups(config_file.with_name(f"{entry}.yaml"))
    return [group for group in dict.fromkeys(groups) if group != "hydra"]


def _values(override: Override) -> list[Any]:
    if override.is_delete():
        return []
    if override.is_discrete_sweep():
        return list(override.sweep_iterator())
    value = override.value()
    return list(value) if isinstance(value, list) else [value]


def _check_option(group: str, option: Any, folders: Sequence[Path]) -> None:
    inner = str(option).rpartition("/")[0]  # options may lie in sub-folders: experiment=ablation/no_memory
    files = sorted(file for folder in folders for file in (folder / inner).glob("*.yaml"))
    options = sorted({f"{inner}/{file.stem}" if inner else file.stem for file in files})
    if option is None:
        raise InputError(f"{group}=null is not an option; leave it out with ~{group}. Allowed: {', '.join(options)}.")
    if str(option) not in options:
        near = suggest(str(option), options).replace("Did you mean ", f"Did you mean {group}=", 1)
        raise InputError(f"{group}={option} does not exist. {near}")


def _check_key(key: str, kind: type, groups: Sequence[str]) -> None:
    path, schema = "", kind
    named = False  # whether this part is a name of the user's own, in a section such as criteria.targets
    for part in key.split("."):
        if named:
            path, named = f"{path}.{part}", False
            continue
        known = [field.name for field in fields(schema)]
        if path == "":
            known = [name for name in known if name not in _SET_BY_THE_ENTRY_POINT]
            known += [group for group in groups if group not in known]
        if part not in known:
            where = f"{path}.{part}" if path else part
            raise InputError(f"{where} is not a key. {suggest(part, known, prefix=path)}")
        path = f"{path}.{part}" if path else part
        hint = get_type_hints(schema).get(part)
        members = [hint, *get_args(hint)]
        sections = [member for member in members if is_dataclass(member)]
        if not sections:
            rest = key.removeprefix(path)
            if rest and dict not in [getattr(member, "__origin__", member) for member in members]:
                raise InputError(f"{key} is not a key: {path} is a value, not a section. Write {path}=VALUE.")
            return
        if has_variants(sections[0]):
            return  # which keys there are depends on a value of the composed configuration: `check_variant_keys`
        schema = sections[0]  # type: ignore[assignment]
        named = get_origin(hint) is dict
