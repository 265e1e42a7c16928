"""The pairs of model and weights that OpenCLIP lists, as its registry has them."""

import functools
import re
from importlib import resources
from typing import NamedTuple


class Pair(NamedTuple):
    """A row of `open_clip_pairs.tsv`.

    `quick_gelu` is "1" where the weights were trained with the quick GELU, whatever the model is
    called; `statistics` names the mean and standard deviation of the pixels.
    """

    model: str
    tag: str
    family: str
    repo: str
    quick_gelu: str
    statistics: str
    interpolation: str
    resize_mode: str

    @property
    def answer(self) -> str:
        """What to say to whoever asks for a pair whose family is not built."""
        return (
            f"OpenCLIP has the pair {self.model!r}, {self.tag!r}; eqx_clip does not build its "
            f"family, {self.family}, yet."
        )


@functools.cache
def open_clip_pairs() -> tuple[Pair, ...]:
    """Every pair that OpenCLIP 3.3 lists, in our order: the last of a model is its best."""
    table = resources.files("eqx_clip") / "assets" / "open_clip_pairs.tsv"
    _header, *lines = table.read_text(encoding="utf-8").splitlines()
    return tuple(Pair(*line.split("\t")) for line in lines)


def normalized(name: str) -> str:
    """One spelling for ours and OpenCLIP's: `ViT-B/32` and `vit_b_32` are `vit-b-32`."""
    return name.strip().lower().replace("/", "-").replace("_", "-")


def words(name: str) -> list[str]:
    """The words of a name, in lower case: `ViT-B-16-SigLIP2` is of `vit`, `b` and `siglip`."""
    return re.findall("[a-z]+", normalized(name))


def pairs_of(*names: str) -> list[Pair]:
    """The pairs that OpenCLIP lists under any of these names, in any spelling."""
    wanted = {normalized(name) for name in names}
    return [pair for pair in open_clip_pairs() if normalized(pair.model) in wanted]


def pair_of(tag: str, *names: str) -> Pair | None:
    """The pair of this tag that OpenCLIP lists under any of these names, in any spelling."""
    pairs = (pair for pair in pairs_of(*names) if normalized(pair.tag) == normalized(tag))
    return next(pairs, None)
