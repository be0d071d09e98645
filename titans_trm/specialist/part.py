"""`Part`: what every piece of a package is made of, and how one is read: strictly, with errors that name the field."""

import json
import types
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from titans_trm.errors import InputError
from titans_trm.schema import suggest

Package = TypeVar("Package", bound="Part")


class Part(BaseModel):
    """A part of a package: unknown fields are an error, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with the fields that were given and no others."""
        return self.model_dump(mode="json", exclude_unset=True)


def read_part(kind: type[Package], values: Mapping[str, Any] | str, name: str) -> Package:
    """Return the package in `values` (a mapping or JSON text); an `InputError` names the field that is wrong.

    Args:
        kind: of the package.
        values: as they came.
        name: of the package, for messages.
    """
    if isinstance(values, str):
        try:
            values = json.loads(values)
        except ValueError as error:
            raise InputError(f"the {name} package is not JSON: {error}.") from error
    if not isinstance(values, Mapping):
        raise InputError(f"the {name} package is a {type(values).__name__}; give an object with named fields.")
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise InputError(_explain(error, kind, name)) from error


def checked(value: str | None, parse: Any) -> str | None:
    """Return `value` as it is, after making sure that it can be read as a number."""
    if value is not None:
        parse(value)
    return value


def _explain(error: ValidationError, kind: type[Part], name: str) -> str:
    first = error.errors()[0]
    path = name
    for part in first["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    if first["type"] == "extra_forbidden":
        parent = _part_at(kind, first["loc"][:-1])
        return f"{path} is not a field. {suggest(str(first['loc'][-1]), parent.model_fields)}"
    if first["type"] == "missing":
        return f"{path} is missing and has no default; give it a value."
    if first["type"] == "value_error":
        return f"{path}: {first['ctx']['error']}"
    return f"{path}={first['input']!r} does not fit: {first['msg']}."


def _part_at(kind: type[Part], loc: tuple[int | str, ...]) -> type[Part]:
    """Return the part that holds the field at `loc`."""
    for name in loc:
        if isinstance(name, str):
            kind = _part_in(kind.model_fields[name].annotation) or kind
    return kind


def _part_in(hint: Any) -> type[Part] | None:
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias) and issubclass(hint, Part):
        return hint
    return next((found for member in get_args(hint) if (found := _part_in(member))), None) if get_origin(hint) else None
