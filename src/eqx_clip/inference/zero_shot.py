"""Zero-shot classification: class names and templates in, a matrix of classifiers out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax import Array
from jaxtyping import Float

from .._checks import as_array, short_repr
from .._clip import CLIP
from .embed import embed_texts


# Silent at run time, as in `_types`: a `ValueError` with the remedy is to speak first.
if TYPE_CHECKING:
    Template = str | Callable[[str], str]
    Names = Iterable[str]
    Templates = Iterable[Template]
else:
    Template = Names = Templates = Any


def zero_shot_classifier(
    model: CLIP, class_names: Names, templates: Templates
) -> Float[Array, "classes embed"]:
    """One unit vector a class: the mean of its prompts' unit vectors, normalised again.

    `templates`: strings with a `{}` for the class's name, or functions of it. Cosines with an
    image's feature are `classifier @ model.encode_image(image)`, and
    `model.logits(image_features, classifier)` the logits. Raises `ValueError` for no classes, no
    templates, what is no list of them, and a template without a `{}`. Source: OpenCLIP's
    `build_zero_shot_classifier`, transposed.
    """
    names = _listed(class_names, "class_names", str, "strings")
    templates = _listed(templates, "templates", str | Callable, "strings or functions of a name")
    prompts = [_prompt(template, name) for name in names for template in templates]
    features = embed_texts(model, prompts, progress=False)
    # By NumPy, since JAX would compile anew for each number of classes and of templates.
    means = features.reshape(len(names), -1, features.shape[-1]).mean(axis=1)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    return as_array(means / np.maximum(norms, 1e-12))


def _listed(values: Any, name: str, kind: Any, kinds: str) -> Sequence:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise ValueError(f"`{name}` must be a list; got {short_repr(values)}.")
    listed = list(values)
    if not listed:
        raise ValueError(f"`{name}` must not be empty.")
    for value in listed:
        if not isinstance(value, kind):
            raise ValueError(f"`{name}` must be {kinds}; one is {short_repr(value)}.")
    return listed


def _prompt(template: Template, name: str) -> str:
    if not isinstance(template, str):
        return template(name)
    try:
        prompt, other = template.format(name), template.format(f"{name}?")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        prompt = other = ""
    if prompt == other:
        raise ValueError(
            f"Template {short_repr(template)} must have a '{{}}' where the name of the class "
            "goes, and no other braces."
        )
    return prompt
