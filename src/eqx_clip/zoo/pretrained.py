"""The known weights, as data: where they are, and what they were trained with."""

import dataclasses

from .._checks import did_you_mean, short_repr
from .._clip import CLIPConfig
from .._types import Name
from ..images.preprocess import Preprocess
from .architectures import MODELS, find_model, is_model, other_names
from .pairs import Pair, normalized, open_clip_pairs, pair_of, pairs_of
from .statistics import STATISTICS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
    """One set of weights of a model, by its tag.

    `repos` are hub repositories, tried in order. `open_clip` is OpenCLIP's name of the model and of
    the tag; it lists weights of the quick GELU under a second name, too, with `-quickgelu`
    behind. `preprocess` is that of the weights.
    """

    model: str
    tag: str
    open_clip: tuple[str, str]
    repos: tuple[str, ...]
    quick_gelu: bool = False
    preprocess: Preprocess

    @property
    def config(self) -> CLIPConfig:
        """The model with this tag's activation and preprocessing."""
        config = MODELS[self.model].resize(self.preprocess.image_size)
        config = dataclasses.replace(config, preprocess=self.preprocess)
        return config.with_quick_gelu() if self.quick_gelu else config


def _row(pair: Pair) -> Pretrained:
    alias = find_model(pair.model)
    # One tag of OpenCLIP's is two sets of weights, told apart by the size in the model's name.
    size = "" if alias.image_size is None else f"-{alias.image_size}"
    return Pretrained(
        model=alias.model,
        tag=f"{normalized(pair.tag)}{size}",
        open_clip=(pair.model, pair.tag),
        repos=(pair.repo,),
        quick_gelu=pair.quick_gelu == "1",
        preprocess=Preprocess(
            image_size=alias.image_size or MODELS[alias.model].preprocess.image_size,
            interpolation=pair.interpolation,
            resize_mode=pair.resize_mode,
            **STATISTICS[pair.statistics],
        ),
    )


# A pair under a name with `-quickgelu` is the same weights again.
PRETRAINED: tuple[Pretrained, ...] = tuple(
    _row(pair)
    for pair in open_clip_pairs()
    if is_model(pair.model) and not find_model(pair.model).quick_gelu
)


def find_pretrained(name: str, tag: str | None = None) -> Pretrained:
    """The weights of a model by tag, ours or OpenCLIP's; without a tag the last listed.

    Raises `ValueError`, with the nearest, for an unknown name or tag and for a model that has no
    weights.
    """
    rows = _rows(name)
    alias = find_model(name)
    names = other_names(alias.model) if normalized(name) == normalized(alias.model) else [name]
    wanted = "" if tag is None else normalized(tag)
    for row in rows:
        if wanted in (row.tag, normalized(row.open_clip[1])):
            return row
    pair = pair_of(wanted, *names)
    if pair is not None:
        raise ValueError(f"{pair.answer} Weights of this model: {_tags(rows)}.")
    if not rows:
        theirs = [f" {pair.answer}" for pair in pairs_of(*names)]
        raise ValueError(
            f"There are no pretrained weights of {name!r}.{''.join(theirs[-1:])} "
            "`eqx_clip.create(name, key=...)` makes a new model; models with weights: "
            f"{', '.join(dict.fromkeys(row.model for row in PRETRAINED))}."
        )
    if tag is None:
        return rows[-1]
    raise ValueError(
        f"Unknown weights {short_repr(tag)} of {name!r}."
        f"{did_you_mean(wanted, [row.tag for row in rows])} Weights of this model: {_tags(rows)}."
    )


def _tags(rows: list[Pretrained]) -> str:
    return ", ".join(row.tag for row in rows) or "none"


def _rows(name: Name) -> list[Pretrained]:
    """A model's weights; for one of OpenCLIP's names those that OpenCLIP lists under it."""
    alias = find_model(name)
    rows = [row for row in PRETRAINED if row.model == alias.model]
    if normalized(name) == normalized(alias.model):
        return rows
    if alias.quick_gelu:
        return [row for row in rows if row.quick_gelu]
    return [row for row in rows if normalized(row.open_clip[0]) == normalized(name)]


def list_pretrained() -> tuple[tuple[str, str], ...]:
    """Every (model, tag) pair that `load` takes, each under one of its names."""
    return tuple((row.model, row.tag) for row in PRETRAINED)


def list_pretrained_by_model(name: Name) -> tuple[str, ...]:
    """The tags of a model's weights. Raises `ValueError` for an unknown model."""
    return tuple(row.tag for row in _rows(name))
