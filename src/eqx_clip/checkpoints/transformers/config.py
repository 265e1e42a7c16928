"""transformers' `config.json`, read into our configurations and written back."""

from collections.abc import Mapping
from typing import Any

from ..._checks import short_repr
from ..._clip import CLIP, CLIPConfig
from . import clip, siglip
from .naming import Naming
from .preprocess import preprocess_from_transformers


NAMINGS = (clip.NAMING, siglip.NAMING)
_REFUSED = {
    "siglip2": (
        "it is SigLIP 2 of images of any size (NaFlex), which takes padded rows of patches with a "
        "mask, as no tower here does. SigLIP 2 of images of one size has type 'siglip'."
    ),
}


def config_from_transformers(
    config: Mapping[str, Any], processor: Mapping[str, Any], source: str
) -> CLIPConfig:
    """The configuration that a `config.json` describes, with a `preprocessor_config.json`.

    An empty `processor` is the one that transformers takes by default, for images of the tower's
    size. `source` names the place of the files, after which the tokenizer is called where they do
    not say what it is. Raises `ValueError` for another kind of model, and for what no tower here
    can reproduce. Source: transformers' `CLIPConfig` and `SiglipConfig`.
    """
    naming = _naming_of_type(config.get("model_type"))
    parts = naming.read(config, source)
    size = parts["image"].image_size
    preprocess = preprocess_from_transformers(processor, size, naming.image_processor)
    if size != preprocess.image_size:
        raise ValueError(
            f"The image processor gives images of size {preprocess.image_size}, and the vision "
            f"tower takes {size}: they do not belong together."
        )
    return CLIPConfig(preprocess=preprocess, **parts)


def config_to_transformers(model: CLIP) -> dict[str, Any]:
    """The contents of a `config.json` from which transformers builds `model`.

    Raises `ValueError` for a model that none of transformers' can be.
    """
    return naming_of(model).write(model)


def _naming_of_type(model_type: Any) -> Naming:
    for naming in NAMINGS:
        if naming.model_type == model_type:
            return naming
    reason = _REFUSED.get(model_type) if isinstance(model_type, str) else None
    types = " and ".join(repr(naming.model_type) for naming in NAMINGS)
    raise ValueError(
        f"`model_type={short_repr(model_type)}` is not supported: "
        f"{reason or f'of models of transformers those of type {types} are read.'}"
    )


def naming_of(model: CLIP | CLIPConfig) -> Naming:
    """The kind of model that has such towers. `ValueError` for none."""
    image, text = (getattr(tower, "config", tower) for tower in (model.image, model.text))
    for naming in NAMINGS:
        if type(image) is naming.image and type(text) is naming.text:
            return naming
    pairs = "; ".join(f"{x.image.__name__} and {x.text.__name__}" for x in NAMINGS)
    raise ValueError(
        f"transformers has models of {pairs}; this one is of {type(image).__name__} and "
        f"{type(text).__name__}. `format='open_clip'` knows more."
    )
