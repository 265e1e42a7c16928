"""What a file of weights is that does not say it, by the names and shapes of its tensors."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .._clip import CLIPConfig
from ..zoo.architectures import ALIASES, MODELS, model_config
from ..zoo.pretrained import PRETRAINED
from .format import Format
from .open_clip.tensors import is_openais
from .rows.sizes import TowerSizes


class Sizes(NamedTuple):
    """What shapes tell of a model."""

    image: TowerSizes
    text: TowerSizes
    has_bias: bool

    def are_of(self, config: CLIPConfig) -> bool:
        """Whether a model has these sizes."""
        has_bias = config.init_logit_bias is not None
        towers = self.image.are_of(config.image) and self.text.are_of(config.text)
        return towers and has_bias == self.has_bias


def sizes_of(tensors: Mapping[str, Any], form: Format) -> Sizes | None:
    """The sizes of a state dict in a format, read off its shapes; None of one that is of no family
    here."""
    plain = form.plain(tensors, {})
    shapes = {name: shape for name in plain if (shape := plain.shape(name)) is not None}
    try:
        return Sizes(*form.sizes(shapes), form.logit_bias in shapes)
    except (KeyError, IndexError, ValueError):
        return None


def recognized(tensors: Mapping[str, Any], form: Format, weights: Path) -> CLIPConfig:
    """The one configuration that all registered models and weights of a file's sizes have.

    Of OpenAI's own files only OpenAI's weights count. Raises `ValueError` where there is none or
    several, with what is missing and how to give it.
    """
    sizes = sizes_of(tensors, form)
    if sizes is None:
        raise ValueError(
            f"{weights} is a file alone, and its tensors are of no family that is recognised. Name "
            f"its architecture, `eqx_clip.load('vit-base-patch32', {str(weights)!r})`, or load a "
            "folder with 'open_clip_config.json' beside the weights."
        )
    fitting = [config for config in _registered(is_openais(tensors)) if sizes.are_of(config)]
    configs = list(dict.fromkeys(fitting))
    if len(configs) != 1:
        raise ValueError(_ambiguous(weights, configs, sizes))
    return configs[0]


def _registered(only_openais: bool) -> list[CLIPConfig]:
    if only_openais:
        return [row.config for row in PRETRAINED if row.tag == "openai"]
    return [*map(model_config, _distinct_names()), *(row.config for row in PRETRAINED)]


def _distinct_names() -> list[str]:
    """The names of models, and those other spellings that mean another configuration."""
    changing = [name for name, alias in ALIASES.items() if alias.quick_gelu or alias.image_size]
    return [*MODELS, *changing]


def _ambiguous(weights: Path, configs: list[CLIPConfig], sizes: Sizes) -> str:
    names = [name for name in _distinct_names() if sizes.are_of(model_config(name))]
    folder = "or load a folder with 'open_clip_config.json' beside the weights."
    if not names:
        return (
            f"{weights} is a file alone, of sizes that no registered model has: images of "
            f"{sizes.image.described}; texts of {sizes.text.described}. What tensors do not tell "
            f"is missing: {_UNTOLD}. Write it into a configuration, "
            f"{folder}"
        )
    differing = _differences(configs) if configs else _UNTOLD
    return (
        f"{weights} is a file alone, with the sizes of {', '.join(map(repr, names))}. What tensors "
        f"do not tell is missing, and differs between these and their weights: {differing}. Name "
        f"one, `eqx_clip.load({names[0]!r}, {str(weights)!r})`, {folder}"
    )


_UNTOLD = (
    "heads, activation, pooling, epsilon, the end of text, the tokenizer, and the pixels' size, "
    "mean, standard deviation and resizing"
)


def _differences(configs: list[CLIPConfig]) -> str:
    """The fields in which configurations differ, each with its values."""
    facts = [_facts(config) for config in configs]
    differing = [key for key in facts[0] if len({str(x.get(key)) for x in facts}) > 1]
    return ", ".join(
        f"{key} ({' or '.join(dict.fromkeys(str(x.get(key)) for x in facts))})" for key in differing
    )


def _facts(config: CLIPConfig) -> dict[str, Any]:
    return {
        f"{part}.{field.name}": getattr(value, field.name)
        for part in ("image", "text", "preprocess", "tokenizer")
        for value in (getattr(config, part),)
        for field in dataclasses.fields(value)
    }
