"""An object of a JSON file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def json_object(text: str | bytes, path: Path, form: str) -> Mapping[str, Any]:
    """The object that `text`, of a file at `path`, holds. `ValueError` for anything else.

    `form`: whose format it should be in.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} must hold an object in {form}'s format.")
    return found
