"""Strict building of configuration dataclasses from plain values: the one place where keys and types are judged.

Every error is an `InputError` with the full key path, the value, what is allowed and, for a misspelt word, the nearest.
"""

import difflib
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from titans_trm.errors import InputError

Config = TypeVar("Config")

_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}


def build(schema: type[Config], values: Mapping[str, Any], path: str = "") -> Config:
    """Return `schema(**values)`, nested dataclasses included, after checking every key and every type.

    Raises:
        InputError: a key the schema does not have, a required one that is missing, a value of the wrong type, or one
            that the dataclass itself refuses.
    """
    if not isinstance(values, Mapping):
        raise InputError(
            f"{path or 'configuration'}={values!r} is not a section; it holds the keys {_listed(_names(schema))}."
        )
    schema, selected_by = select_variant(schema, values, path)
    known = _names(schema)
    for key in values:
        if key not in known:
            note = f" These are the keys of {selected_by}." if selected_by else ""
            raise InputError(f"{_join(path, str(key))} is not a key. {suggest(str(key), known, prefix=path)}{note}")
    missing = [f.name for f in fields(schema) if f.name not in values and f.default is f.default_factory is MISSING]  # type: ignore[arg-type]
    if missing:
        raise InputError(f"{_join(path, missing[0])} is missing and has no default; give it a value.")
    hints = get_type_hints(schema)
    built = {key: convert(value, hints[key], _join(path, key)) for key, value in values.items()}
    try:
        return schema(**built)
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(_with_path(str(error), path)) from error


def has_variants(schema: Any) -> bool:
    """Tell whether a schema is the common part of several, of which one of its values selects one."""
    return isinstance(schema, type) and "variants" in vars(schema)


def select_variant(schema: Any, values: Mapping[str, Any], path: str) -> tuple[Any, str]:
    """Return the schema that `values` are to be held against, and `key=value` that selected it, if anything did.

    A schema with a class method `variants` of its own names the key that selects, and the choices; where the values do
    not have that key, the first choice counts.

    Raises:
        InputError: the value is not a choice.
    """
    if not has_variants(schema):
        return schema, ""
    key, choices = schema.variants()
    value = values.get(key, next(iter(choices)))
    if value not in choices:
        raise InputError(f"{_join(path, key)}={value!r} is not allowed. {suggest(str(value), choices)}")
    return choices[value], f"{_join(path, key)}={value}"


def convert(value: Any, hint: Any, path: str) -> Any:
    """Return `value` as the annotated type `hint`, or raise an `InputError` that names `path`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if is_dataclass(hint):
        return build(hint, value, path)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, path)
    if origin is Literal:
        return _convert_choice(value, arguments, path)
    if origin in (tuple, list):
        return _convert_sequence(value, origin, arguments, path)
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{path}={value!r} is not a section of names and values.")
        kind = arguments[1] if arguments else Any
        return {str(key): convert(item, kind, _join(path, str(key))) for key, item in value.items()}
    return _convert_scalar(value, hint, path)


def suggest(word: str, allowed: Iterable[str], *, prefix: str = "") -> str:
    """Return `Did you mean X? Allowed: ...`; the question only where something is near."""
    allowed = list(allowed)
    near = difflib.get_close_matches(word, allowed, n=1, cutoff=0.5)
    question = f"Did you mean {_join(prefix, near[0])}? " if near else ""
    return f"{question}Allowed: {_listed(allowed)}."


def _convert_union(value: Any, members: tuple[Any, ...], path: str) -> Any:
    if value is None and types.NoneType in members:
        return None
    members = tuple(member for member in members if member is not types.NoneType)
    sections = [member for member in members if is_dataclass(member)]
    if len(members) == 1 or (isinstance(value, Mapping) and len(sections) == 1):
        return convert(value, (sections or members)[0], path)
    errors = []
    for member in members:
        try:
            return convert(value, member, path)
        except InputError as error:
            errors.append(str(error).removeprefix(f"{path}={value!r} ").rstrip("."))
    raise InputError(f"{path}={value!r} fits none of its forms: {'; '.join(errors)}.")


def _convert_choice(value: Any, allowed: tuple[Any, ...], path: str) -> Any:
    for choice in allowed:
        if value == choice and type(value) is type(choice):
            return choice
    # YAML reads a bare off as a text here and as false elsewhere; both mean the word.
    if value is False and "off" in allowed:
        return "off"
    raise InputError(f"{path}={value!r} is not allowed. {suggest(str(value), map(str, allowed))}")


def _convert_sequence(value: Any, kind: type, arguments: tuple[Any, ...], path: str) -> Any:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise InputError(f"{path}={value!r} is not a list; write [a, b].")
    if kind is list or arguments[-1] is Ellipsis:
        return kind(convert(item, arguments[0], f"{path}[{i}]") for i, item in enumerate(value))
    if len(value) != len(arguments):
        raise InputError(f"{path}={list(value)} has {len(value)} entries; it takes {len(arguments)}.")
    pairs = zip(value, arguments, strict=True)
    return tuple(convert(item, hint, f"{path}[{i}]") for i, (item, hint) in enumerate(pairs))


def _convert_scalar(value: Any, kind: Any, path: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)  # Python counts true as 1
    if isinstance(value, kind) and (number or kind not in (int, float)):
        return value
    if number and kind in (float, str):
        return kind(value)  # a name such as 6
    if number and kind is int and float(value).is_integer():
        return int(value)  # 1e5 is a float to YAML
    raise InputError(f"{path}={value!r} is not {_WORDS.get(kind, kind.__name__)}.")


def _with_path(message: str, path: str) -> str:
    """Return `message` with the full path of the key it starts with: configurations know their own keys only."""
    first = re.match(r"[a-z_][\w.]*(?==)", message)
    if not path or not first or first[0].startswith(f"{path}."):
        return message if not path or first else f"{path}: {message}"
    parent, _, last = path.rpartition(".")
    return _join(parent if first[0].startswith(f"{last}.") else path, message)


def _names(schema: Any) -> list[str]:
    return [f.name for f in fields(schema)]


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)
