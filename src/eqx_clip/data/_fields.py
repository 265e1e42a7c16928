"""Fields of JSON objects and structs, by keys such as `json:caption`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ._files import File


def key_path(key: str) -> tuple[str, tuple[str, ...]]:
    """The column or member that a key names, and the path of a field in it: "json:meta:title"."""
    name, *path = key.split(":")
    return name, tuple(path)


def check_columns(file: File, names: Sequence[str], keys: Sequence[str]) -> None:
    """A `ValueError` for a file of a table that lacks a column of the first file."""
    for key in keys:
        if key not in names and key_path(key)[0] not in names:
            held = ", ".join(map(repr, names)) or "nothing"
            raise ValueError(f"{file.url} has no column {key!r}: it holds {held}.")


def field(value: Any, path: tuple[str, ...]) -> Any:
    """What an object holds at a path of names; None where it, or what leads to it, is missing."""
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def text_field(value: Any, key: str) -> str | list[str | None] | None:
    """A text, a list of texts or None, as it is; `ValueError` for anything else, naming fields."""
    texts = value if isinstance(value, list) else [value]
    if all(text is None or isinstance(text, str) for text in texts):
        return value
    if isinstance(value, Mapping):
        fields = ", ".join(f"'{key}:{name}'" for name in value) or "none"
        raise ValueError(
            f"{key!r} is an object: name a field of it that holds a text; it has {fields}."
        )
    kind = next(
        type(text).__name__ for text in texts if not (text is None or isinstance(text, str))
    )
    raise ValueError(f"{key!r} must hold text; it is {kind}.")


def several(key: str | None, usual: tuple[str, ...]) -> tuple[str, ...]:
    """The extensions that a key names, in lower case as those of files; fields keep theirs."""
    if key is None:
        return usual
    names = (one.partition(":") for one in key.split(";"))
    return tuple(f"{name.lower()}{colon}{path}" for name, colon, path in names)


def keys_with_extension(key: str, keys: Sequence[str]) -> list[str]:
    """The keys that name fields of the member or file that `key` does, in their order."""
    return [one for one in keys if key_path(one)[0] == key_path(key)[0]]


def text_in(data: bytes, keys: Sequence[str], place: str) -> str | list[str] | None:
    """The text in a file, or in a field of one that is JSON, the first of several that has one; a
    list is several texts. `place` is where it lies, for the `ValueError` of what is no text."""
    text = decoded(data, place)
    for key in keys:
        _, path = key_path(key)
        found = _in_json(text, key, path, place) if path else text
        if found is not None:
            return found
    return None


def _in_json(text: str, key: str, path: tuple[str, ...], place: str) -> str | list[str] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is no JSON: {error}") from error
    try:
        found = text_field(field(value, path), key)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    return text_of(found) if isinstance(found, list) else found


def text_of(texts: Sequence[str | None] | None) -> str | list[str] | None:
    """What an example has of the texts that are stored for it: one as it is, several as a list."""
    found = [text for text in texts or () if text is not None]
    return found if len(found) > 1 else next(iter(found), None)


def decoded(text: bytes, place: str) -> str:
    """A text in UTF-8, or `ValueError` with its place."""
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{place} is not UTF-8: {error}") from error
