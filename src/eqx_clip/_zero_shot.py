"""Zero-shot classification: class names and templates in, a matrix of classifiers out."""

from collections.abc import Callable, Iterable, Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from ._clip import CLIP, unit
from ._embed import embed_texts


Template = str | Callable[[str], str]


def zero_shot_classifier(
    model: CLIP, class_names: Iterable[str], templates: Iterable[Template]
) -> Float[Array, "classes embed"]:
    """One unit vector a class: the mean of its prompts' unit vectors, normalised again.

    `templates`: strings with a `{}` for the class's name, or functions of it. Cosines with an
    image's feature are `classifier @ model.encode_image(image)`, and
    `model.logits(image_features, classifier)` the logits. Raises `ValueError` for no classes, no
    templates, a string in place of a list, and a template without a `{}`. Source: OpenCLIP's
    `build_zero_shot_classifier`, transposed.
    """
    names = _listed(class_names, "class_names")
    templates = _listed(templates, "templates")
    prompts = [_prompt(template, name) for name in names for template in templates]
    features = embed_texts(model, prompts, progress=False)
    by_class = jnp.asarray(features).reshape(len(names), -1, features.shape[-1])
    return unit(jnp.mean(by_class, axis=1))


def _listed(values: Iterable, name: str) -> Sequence:
    if isinstance(values, str):
        raise ValueError(f"`{name}` must be a list; got the string {values!r}.")
    listed = list(values)
    if not listed:
        raise ValueError(f"`{name}` must not be empty.")
    return listed


def _prompt(template: Template, name: str) -> str:
    if not isinstance(template, str):
        return template(name)
    try:
        prompt, other = template.format(name), template.format(f"{name}?")
    except (IndexError, KeyError, ValueError):
        prompt = other = ""
    if prompt == other:
        raise ValueError(
            f"Template {template!r} must have a '{{}}' where the name of the class goes, and no "
            "other braces."
        )
    return prompt
