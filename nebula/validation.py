"""Whether a file's keys are the right ones: pydantic models over marked YAML, each error one sentence with its place.

Unknown keys fail first and name the closest one; a missing key says what to add.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from nebula.errors import LARGEST, BadInput, UnknownKey, closest, shown
from nebula.marked_yaml import Document, Keys, spell

M = TypeVar("M", bound=BaseModel)


class Section(BaseModel):
    """Base of all models of files: unknown keys fail."""

    model_config = ConfigDict(extra="forbid")


def parsed_by(parse: Callable[[Any], float]) -> BeforeValidator:
    """A pydantic validator from a parser of nebula.units; its sentence becomes the error."""

    def run(value: Any) -> float:
        try:
            return parse(value)
        except BadInput as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(run)


def _text(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not text here: put it in quotes")
    if isinstance(value, str) and not value.isprintable():
        raise ValueError(f"{shown(value)} must be one line of printable text")
    return value


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number")
    return value


Name = Annotated[str, BeforeValidator(_text)]
"""Text that names something; YAML reads a bare `no` or `on` as a truth value, which is refused."""

LONGEST_NAME = 200
"""Characters of a name; what discovery finds is cut to as many."""

Called = Annotated[Name, Field(min_length=1, max_length=LONGEST_NAME)]
"""The name of something in the file itself."""

Whole = Annotated[int, BeforeValidator(_number), Field(lt=LARGEST)]
"""A whole number; truth values are none, although they count as such in Python."""


def validated(document: Document, model: type[M]) -> M:
    """The document as the model.

    Raises:
        BadInput: the first key that is unknown, missing or of a wrong kind.
    """
    if not isinstance(document.value, Mapping):
        keys = ", ".join(_keys(model))
        raise document.fault((), f"this must be a mapping with the keys {keys}, not {shown(document.value)}")
    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        faults = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        raise _explained(document, model, faults) from None


def faults(document: Document, model: type[BaseModel]) -> tuple[BadInput, ...]:
    """Everything that keeps a document from being the model, each in a sentence with its place; empty if nothing does.

    A sentence of a check over the whole mapping stands at its beginning; several are parted by line ends.
    """
    try:
        model.model_validate(document.value)
    except ValidationError as error:
        errors = error.errors()
    else:
        return ()
    if not isinstance(document.value, Mapping):
        return (document.fault((), f"this must be a mapping, not {shown(document.value)}"),)
    found: dict[str, BadInput] = {}
    for one in errors:
        if one["type"] == "value_error" and not one["loc"]:
            sentences = str(one["ctx"]["error"]).splitlines()
            found |= {s: document.fault((), s) for s in sentences}
        else:
            fault = _explained(document, model, [one, *(e for e in errors if e is not one)])
            found.setdefault(str(fault), fault)
    return tuple(found.values())


def _explained(document: Document, model: type[BaseModel], errors: Sequence[Any]) -> BadInput:
    """The first error in a sentence; where it is a union's, what each of its branches would take."""
    error = errors[0]
    kind, given = error["type"], error["input"]
    way = _real(document.value, error["loc"], missing=kind == "missing")
    where = f" in {spell(way[:-1])}" if way[:-1] else ""
    if kind == "extra_forbidden":
        known = _keys(_model_at(model, way[:-1]))
        return document.fault(way, f"unknown key {shown(way[-1])}{where}; {closest(str(way[-1]), known)}", UnknownKey)
    if kind == "missing":
        here = f" of {spell(way[:-1])}" if way[:-1] else ""
        meaning = _meaning(_model_at(model, way[:-1]), str(way[-1]))
        return document.fault(way[:-1], f"the key {way[-1]!r}{here} is missing; add `{way[-1]}: {meaning}`")
    if kind == "value_error":
        return document.fault(way, f"{spell(way)}: {error['ctx']['error']}")
    if kind == "invalid_key":
        return document.fault(way, f"the key {way[-1]}{where} must be text; put it in quotes")
    branches = (e for e in errors if _real(document.value, e["loc"]) == way and e["type"] != "value_error")
    wanted = " or ".join(dict.fromkeys(map(_wanted, branches)))
    refused = UnknownKey if "[key]" in error["loc"] else BadInput
    return document.fault(way, f"{spell(way)} must be {wanted}, not {shown(given)}", refused)


def _wanted(error: Any) -> str:
    text: str = _WANTED.get(error["type"], error["msg"][:1].lower() + error["msg"][1:])
    return text.format(**error.get("ctx", {}))


_WANTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "finite_number": "a finite number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "too_short": "at least {min_length} character long",
    "too_long": "at most {max_length} characters long",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "one of {expected}",
}


def _real(value: Any, loc: tuple[str | int, ...], *, missing: bool = False) -> Keys:
    """Pydantic's location without the labels of union branches, which are not found in the data.

    Args:
        missing: whether the location ends with a key that is not there.
    """
    way: list[str | int] = []
    for index, key in enumerate(loc):
        if key == "[key]":
            continue
        inside = isinstance(value, Mapping) and key in value
        inside = inside or (isinstance(value, list) and isinstance(key, int) and key < len(value))
        if inside:
            value = value[key]
        elif not (missing and index == len(loc) - 1):
            continue
        way.append(key)
    return tuple(way)


def _model_at(model: type[BaseModel], way: Keys) -> type[BaseModel]:
    """The model that describes the mapping at `way`; the nearest above it when there is none."""
    found: Any = model
    for key in way:
        if isinstance(found, type) and issubclass(found, BaseModel):
            field = _fields(found).get(str(key))
            found = field.annotation if field else None
        else:
            found = next((a for a in reversed(typing.get_args(found))), None)
        found = _unwrapped(found)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else model


def _unwrapped(annotation: Any) -> Any:
    """A union's model, or the annotation."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        arms = typing.get_args(annotation)
        models = (a for a in arms if isinstance(a, type) and issubclass(a, BaseModel))
        return next(models, next((a for a in arms if a is not type(None)), None))
    return annotation


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _keys(model: type[BaseModel]) -> list[str]:
    return list(_fields(model))


def _meaning(model: type[BaseModel], key: str) -> str:
    field = _fields(model).get(key)
    return (field.description if field else None) or "..."
