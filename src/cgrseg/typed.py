"""Check plain values (YAML, JSON) against type hints and build dataclasses from them."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
MEMBERS = "__dataclass_fields__"
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` in it; mappings within are merged as well."""
    result = dict(base)
    for key, value in changes.items():
        within = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if within else value
    return result


def build(cls: type[T], table: Any, where: str = "") -> T:
    """A dataclass from a mapping; nested mappings become nested dataclasses, lists become tuples where these are due.

    Args:
        cls: the dataclass.
        table: field -> value; fields with a default may be missing.
        where: prefix of field names in error messages, such as "optim.".

    Raises:
        ValueError: an unknown or missing field, or a value of another type.
    """
    hints: dict[str, Any] = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if not isinstance(table, Mapping):
        raise ValueError(f"{where.rstrip('.') or 'it'} is {str(table)[:60]!r}: give a mapping of {', '.join(fields)}")
    for name in table:
        if name not in fields:
            nested = [f"{outer}.{name}" for outer, hint in hints.items() if name in getattr(hint, MEMBERS, {})]
            close = nested or difflib.get_close_matches(str(name), fields, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(fields)}"
            raise ValueError(f"there is no option {where}{name}: {hint}")
    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in required if name not in table]:
        raise ValueError(f"{where}{missing[0]} is missing")
    return cls(**{name: convert(value, hints[name], f"{where}{name}") for name, value in table.items()})


def convert(value: Any, hint: Any, name: str) -> Any:
    """The value as its type hint wants it.

    Raises:
        ValueError: it has another type; the message names `name`.
    """
    value = _plain(value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else build(hint, value, f"{name}.")
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for option in options:
        if get_origin(option) is tuple and isinstance(value, list | tuple):
            parts = get_args(option)
            if len(value) == len(parts) and all(map(matches, value, parts)):
                return tuple(value)
        is_list = get_origin(option) is list and isinstance(value, list | tuple)
        if is_list and all(matches(part, get_args(option)[0]) for part in value):
            return list(value)
        if matches(value, option):
            return value
    raise ValueError(f"{name} is {value!r}: use {expected(hint)}")


def _plain(value: Any) -> Any:
    """NumPy's scalars, which YAML cannot write, as Python's."""
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () else value


def matches(value: Any, hint: Any) -> bool:
    """Whether a value has the type of a hint; an int counts as a float, a bool only as a bool."""
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return any(matches(value, part) for part in get_args(hint))
    if get_origin(hint) is dict:
        return isinstance(value, dict)
    if get_origin(hint) is not None:
        return False
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def expected(hint: Any) -> str:
    """A type hint in words."""
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(expected, get_args(hint)))
    if get_origin(hint) in (tuple, list):
        return "a list of " + ", ".join(map(expected, get_args(hint)))
    if get_origin(hint) is dict:
        return "a mapping"
    return WORDS.get(hint, getattr(hint, "__name__", str(hint)))
