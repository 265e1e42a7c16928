"""What a run is, as JSON: compared with that of a checkpoint, and between processes."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any


def as_json(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as JSON gives them back: dataclasses are dictionaries, tuples lists.

    Raises `ValueError` for what JSON cannot say.
    """

    def default(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {"type": type(value).__name__, **dataclasses.asdict(value)}
        raise ValueError(
            f"Got {value!r}, a {type(value).__name__}; expected what JSON can say, and "
            "dataclasses of it. Name it by a string."
        )

    return json.loads(json.dumps(facts, default=default))


def flattened(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested facts by dotted paths that begin with `prefix`, values as JSON."""
    flat = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value, sort_keys=True)
    return flat


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """What differs between two descriptions, a line each."""
    names = dict.fromkeys((*expected, *found))
    return [
        f"{name}: found {found.get(name, 'nothing')}, expected {expected.get(name, 'nothing')}"
        for name in names
        if found.get(name) != expected.get(name)
    ]
