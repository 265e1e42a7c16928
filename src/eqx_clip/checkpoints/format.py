"""The formats of checkpoints: how each names the tensors of a model."""

import dataclasses
from collections.abc import Callable
from typing import Any

from .._clip import CLIP, CLIPConfig
from ..zoo.families import family_of
from .big_vision import tensors as big_vision
from .open_clip import tensors as open_clip
from .rows.plain import Edit, Edits, PlainTensors
from .rows.positions import resize_image_positions, resize_text_positions
from .rows.row import Table, nested, renamed
from .transformers import tensors as transformers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """One origin of checkpoints.

    - `table`: its names for (at least) every leaf of a model. `ValueError` for a model that has no
      form in it.
    - `plain`: a state dict without what holds no weights, and with `Edits` done to small tensors.
    - `positions`: what makes the tensors of the first configuration fit the second, where they
      depend on the size of images or texts.
    """

    table: Callable[[CLIP], Table]
    plain: Callable[[Any, Edits], PlainTensors]
    positions: Callable[[CLIPConfig, CLIPConfig], Edits]


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


def _transformers_positions(old: CLIPConfig, new: CLIPConfig) -> Edits:
    grids: Any = (old.image, new.image)
    image, text = transformers.POSITIONS
    return {
        image: lambda x: resize_image_positions(x, *(config.grid for config in grids)),
        text: lambda x: resize_text_positions(x, new.text.context_length),
    }


OPEN_CLIP = Format(
    table=_open_clip_table, plain=open_clip.plain_tensors, positions=_open_clip_positions
)
TRANSFORMERS = Format(
    table=transformers.table_of, plain=transformers.plain_tensors, positions=_transformers_positions
)
BIG_VISION = Format(
    table=big_vision.table_of, plain=big_vision.plain_tensors, positions=big_vision.positions
)
