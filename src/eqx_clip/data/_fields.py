"""Fields of JSON objects and structs, by keys such as `json:caption`."""

from collections.abc import Mapping
from typing import Any


def key_path(key: str) -> tuple[str, tuple[str, ...]]:
    """The column or member that a key names, and the path of a field in it: "json:meta:title"."""
    name, *path = key.split(":")
    return name, tuple(path)


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
