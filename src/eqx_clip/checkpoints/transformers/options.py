"""The options that the parts of transformers' configurations share, read and written."""

from collections.abc import Mapping
from typing import Any

from ..._checks import as_count, mlp_ratio, short_repr
from ..._types import Activation


Activations = Mapping[str, Activation]  # by transformers' names


def part(config: Mapping[str, Any], defaults: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """A part of a configuration, with what transformers takes where nothing is said.

    Of several `names` of one part the last that says something wins.
    """
    parts = [config.get(name) or {} for name in names]
    for found in parts:
        if not isinstance(found, Mapping):
            raise ValueError(
                f"`{names[0]}` must be an object of options; it is {short_repr(found)}."
            )
    given = {key: value for found in parts for key, value in found.items() if value is not None}
    return {**defaults, **given}


def read_transformer(
    options: Mapping[str, Any], name: str, activations: Activations
) -> dict[str, Any]:
    """What both towers have, of the part that is called `name`."""
    activation = options["hidden_act"]
    if activation not in tuple(activations):
        raise ValueError(
            f"`hidden_act={short_repr(activation)}` in `{name}` is not supported; supported: "
            f"{', '.join(activations)}."
        )
    counts = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    width, hidden, depth, num_heads = (as_count(key, options[key]) for key in counts)
    return {
        "width": width,
        "depth": depth,
        "num_heads": num_heads,
        "mlp_ratio": mlp_ratio(width, hidden),
        "activation": activations[activation],
    }


def read_image(vision: Mapping[str, Any]) -> dict[str, Any]:
    """What a tower of images has beyond that."""
    if vision["num_channels"] != 3:
        raise ValueError(f"`num_channels` must be 3; got {short_repr(vision['num_channels'])}.")
    return {"image_size": vision["image_size"], "patch_size": vision["patch_size"]}


def read_text(text: Mapping[str, Any]) -> dict[str, Any]:
    """What a tower of texts has beyond that."""
    return {
        "vocab_size": as_count("vocab_size", text["vocab_size"]),
        "context_length": as_count("max_position_embeddings", text["max_position_embeddings"]),
    }


def write_transformer(config: Any, activations: Activations) -> dict[str, Any]:
    """What both parts have, of a tower's configuration."""
    names = {ours: theirs for theirs, ours in activations.items()}
    if config.activation not in names:
        raise _not_theirs("activation", config.activation, f"one of {', '.join(map(repr, names))}")
    return {
        "hidden_size": config.width,
        "intermediate_size": int(config.width * config.mlp_ratio),
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "hidden_act": names[config.activation],
    }


def write_image(config: Any) -> dict[str, Any]:
    """What the part of images has beyond that. `ValueError` for a size of two numbers."""
    for name in ("image_size", "patch_size"):
        if isinstance(getattr(config, name), tuple):
            raise _not_theirs(name, getattr(config, name), "squares only")
    return {"num_channels": 3, "image_size": config.image_size, "patch_size": config.patch_size}


def write_text(config: Any) -> dict[str, Any]:
    """What the part of texts has beyond that."""
    return {"vocab_size": config.vocab_size, "max_position_embeddings": config.context_length}


def check_options(config: Any, expected: Mapping[str, Any]) -> None:
    """`ValueError` for a part of a tower that transformers' model of this kind does not have."""
    for name, value in expected.items():
        if getattr(config, name) != value:
            raise _not_theirs(name, getattr(config, name), f"{value!r} only")


def _not_theirs(name: str, value: Any, expected: str) -> ValueError:
    return ValueError(
        f"`{name}={value!r}` has no place in transformers' format of such a model, which has "
        f"{expected}. `format='open_clip'` knows more."
    )
