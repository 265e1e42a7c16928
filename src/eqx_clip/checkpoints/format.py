"""The formats of checkpoints: how each names the tensors of a model."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

from .._clip import CLIP, CLIPConfig
from ..zoo.families import FAMILIES, family_of
from .big_vision import tensors as big_vision
from .big_vision.sizes import sizes_of as big_vision_sizes
from .open_clip import tensors as open_clip
from .rows.plain import Edit, Edits, PlainTensors
from .rows.positions import resize_image_positions, resize_text_positions
from .rows.row import Table, nested, renamed
from .rows.sizes import Shapes, TowerSizes
from .transformers import tensors as transformers
from .transformers.config import naming_of
from .transformers.sizes import sizes_of as transformers_sizes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """One origin of checkpoints.

    - `name`: what it is called.
    - `table`: its names for (at least) every leaf of a model. `ValueError` for a model that has no
      form in it.
    - `plain`: a state dict without what holds no weights, and with `Edits` done to small tensors.
    - `describes`: whether a state dict's names are of this format.
    - `sizes`: what the shapes of a plain state dict say of its image tower and its text tower.
      `KeyError`, `IndexError` or `ValueError` where they are of no family here.
    - `logit_bias`: the plain name of that number.
    - `positions`: what makes the tensors of the first configuration fit the second, where they
      depend on the size of images or texts.
    """

    name: str
    table: Callable[[CLIP], Table]
    plain: Callable[[Any, Edits], PlainTensors]
    positions: Callable[[CLIPConfig, CLIPConfig], Edits]
    describes: Callable[[Collection[str]], bool]
    sizes: Callable[[Shapes], tuple[TowerSizes, TowerSizes]]
    logit_bias: str = "logit_bias"


def _open_clip_table(model: CLIP) -> Table:
    towers = {name: getattr(model, name) for name in ("image", "text")}
    rows = renamed({"logit_scale": "logit_scale", "logit_bias": "logit_bias"})
    for name, tower in towers.items():
        rows |= nested(family_of(tower).open_clip.table(tower.config), f"{name}.", "")
    return rows


def _open_clip_positions(old: CLIPConfig, new: CLIPConfig) -> Edits:
    edits: dict[str, Edit] = {}
    for before, after in ((old.image, new.image), (old.text, new.text)):
        edits |= family_of(before).open_clip.positions(before, after)
    return edits


def _transformers_table(model: CLIP) -> Table:
    return naming_of(model).table


def _open_clip_sizes(shapes: Shapes) -> tuple[TowerSizes, TowerSizes]:
    namings = [family.open_clip for family in FAMILIES if family.open_clip.landmark in shapes]
    image, text = (
        next((naming.sizes for naming in namings if naming.section == section), None)
        for section in ("vision_cfg", "text_cfg")
    )
    if image is None or text is None:
        raise KeyError("visual" if image is None else "token_embedding.weight")
    return image(shapes), text(shapes)


def _transformers_positions(old: CLIPConfig, new: CLIPConfig) -> Edits:
    grids: Any = (old.image, new.image)
    image, text = transformers.POSITIONS
    class_tokens = naming_of(new).class_tokens
    return {
        image: lambda x: resize_image_positions(
            x, *(config.grid for config in grids), class_tokens=class_tokens
        ),
        text: lambda x: resize_text_positions(x, new.text.context_length),
    }


OPEN_CLIP = Format(
    name="OpenCLIP",
    table=_open_clip_table,
    plain=open_clip.plain_tensors,
    positions=_open_clip_positions,
    describes=lambda names: True,  # what is no other's
    sizes=_open_clip_sizes,
)
TRANSFORMERS = Format(
    name="transformers",
    table=_transformers_table,
    plain=transformers.plain_tensors,
    positions=_transformers_positions,
    describes=lambda names: any(x.startswith(("vision_model.", "text_model.")) for x in names),
    sizes=transformers_sizes,
)
BIG_VISION = Format(
    name="big_vision",
    table=big_vision.table_of,
    plain=big_vision.plain_tensors,
    positions=big_vision.positions,
    describes=lambda names: any("/" in name for name in names),
    sizes=big_vision_sizes,
    logit_bias="b",
)


def form_of(names: Collection[str]) -> Format:
    """The format whose names these are."""
    return next(form for form in (TRANSFORMERS, BIG_VISION, OPEN_CLIP) if form.describes(names))
