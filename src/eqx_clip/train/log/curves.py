"""A picture of a run, of the lines that `JSONLines` wrote."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ..._types import PathLike
from .loggers import read_lines


_BLUE, _RED, _GREY = "#1f5fa8", "#c0392b", "dimgrey"
# The small panels, where the run has logged them.
_PANELS = {
    "learning_rate": "learning rate",
    "logit_scale": "logit scale",
    "grad_norm": "gradient norm",
}


class Series(NamedTuple):
    """A metric where it was logged; NaN where it was not finite."""

    steps: Int[np.ndarray, " points"]
    values: Float[np.ndarray, " points"]


def draw_curves(path: PathLike, picture: PathLike) -> None:
    """The loss of a run, raw and smoothed, with its validation and chance; its rate, scale, norm.

    **Arguments:**

    - `path`: what `JSONLines` wrote. Drawn are `"loss"`, `"val/loss"`, `"chance"` (the log of the
      batch size, in one line or in all), `"learning_rate"`, `"logit_scale"` and `"grad_norm"`, as
      far as they are there. Steps at which the loss was not finite are marked.
    - `picture`: a .png, .pdf or .svg, in a folder that exists.

    Raises `ValueError` for a picture of another kind and for a file without a loss,
    `FileNotFoundError` where there is none, and `ImportError` with the remedy without matplotlib.
    """
    picture = Path(os.fspath(picture))
    _check_picture(picture)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "The picture needs matplotlib: `pip install 'eqx_clip[train]'`."
        ) from error
    lines = read_lines(path)
    loss = series(lines, "loss")
    if not len(loss.steps):
        raise ValueError(f"No line of {os.fspath(path)} has a loss: there is nothing to draw yet.")
    panels = [name for name in _PANELS if len(series(lines, name).steps)]
    figure = Figure(figsize=(15 if panels else 9, 6), layout="constrained")
    if panels:
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(5, 3), wspace=0.03)[0]
        shared = right.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
        for axes, name in zip(shared, panels, strict=True):
            _draw_panel(axes, series(lines, name), name)
        shared[-1].set_xlabel("step")
    else:
        left = figure
    _draw_loss(left.subplots(), lines, loss)
    figure.savefig(picture, dpi=120)


def series(lines: list[dict[str, Any]], name: str) -> Series:
    points = [(line["step"], line[name]) for line in lines if name in line]
    steps = np.array([step for step, _ in points], np.int64)
    values = [np.nan if value is None else value for _, value in points]
    return Series(steps, np.array(values, np.float64))


def smoothed(values: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
    """The mean over a window around each point, a fiftieth of the run wide, of what is finite."""
    half = len(values) // 100
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    points = np.arange(len(values))
    start, stop = np.maximum(points - half, 0), np.minimum(points + half + 1, len(values))
    with np.errstate(invalid="ignore"):  # none of a window may be finite
        return (sums[stop] - sums[start]) / (counts[stop] - counts[start])


def _check_picture(path: Path) -> None:
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"The picture must end in .png, .pdf or .svg; got {path}.")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"There is no folder {path.parent} to write {path.name} to.")


def _draw_loss(axes: Any, lines: list[dict[str, Any]], loss: Series) -> None:
    smooth = smoothed(loss.values)
    validation, chance = series(lines, "val/loss"), series(lines, "chance")
    axes.plot(*loss, color=_BLUE, alpha=0.25, linewidth=0.8)
    axes.plot(loss.steps, smooth, color=_BLUE, linewidth=2, marker=_marker(loss), label="training")
    if len(validation.steps):
        axes.plot(
            *validation, color=_RED, marker="o", markersize=4, label="validation", clip_on=False
        )
        axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.9))
    if len(chance.steps):
        _draw_chance(axes, chance, loss.steps)
    _mark_not_finite(axes, loss)
    _scale(axes, loss, np.concatenate([smooth, validation.values, chance.values]))
    axes.set_xlabel("step")
    axes.set_title(_summary(loss, smooth, validation))


def _draw_chance(axes: Any, chance: Series, steps: np.ndarray) -> None:
    """A level that holds until the next one: a resumed run may have another batch size."""
    ends = np.append(chance.steps, max(steps[-1], chance.steps[-1]))
    levels = np.append(chance.values, chance.values[-1])
    axes.step(ends, levels, where="post", color="grey", linestyle="--", linewidth=1)
    axes.annotate(
        f"chance, ln(batch): {levels[-1]:.2f}",
        (ends[-1], levels[-1]),
        (0, -13),
        ha="right",
        color=_GREY,
        textcoords="offset points",
    )


def _mark_not_finite(axes: Any, loss: Series) -> None:
    steps = loss.steps[~np.isfinite(loss.values)]
    if len(steps):
        axes.plot(steps, np.full(len(steps), 0.02), "|", color=_RED, transform=_rug(axes))
        note = f"steps whose loss is not finite: {len(steps):,}, the first {steps[0]:,}"
        axes.annotate(note, (0.02, 0.04), xycoords="axes fraction", color=_RED)


def _rug(axes: Any) -> Any:
    """Steps along the one axis, shares of the panel along the other."""
    return axes.get_xaxis_transform()


def _scale(axes: Any, loss: Series, drawn: np.ndarray) -> None:
    """The panel is as high as what is to be read; single peaks above it are cut."""
    finite = loss.values[np.isfinite(loss.values)]
    drawn = np.append(
        drawn[np.isfinite(drawn)], np.percentile(finite, (0, 99)) if len(finite) else 0
    )
    low, high = drawn.min(), drawn.max()
    margin = 0.05 * (high - low) or 0.5
    axes.set_ylim(low - margin, high + margin)
    axes.set_xlim(loss.steps[0], max(loss.steps[-1], loss.steps[0] + 1))
    _tidy(axes)


def _tidy(axes: Any) -> None:
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.2)


def _summary(loss: Series, smooth: np.ndarray, validation: Series) -> str:
    parts = [f"loss at step {loss.steps[-1]:,}: {smooth[-1]:.3g}"]
    if len(validation.steps):
        parts.append(f"validation {validation.values[-1]:.3g}")
    return ", ".join(parts)


def _draw_panel(axes: Any, values: Series, name: str) -> None:
    axes.set_title(_PANELS[name], loc="left", fontsize=11)
    if name == "grad_norm":
        axes.plot(*values, color=_BLUE, alpha=0.25, linewidth=0.8)
        values = Series(values.steps, smoothed(values.values))
        if (values.values > 0).any():
            axes.set_yscale("log", subs=[])
            axes.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
            axes.yaxis.set_major_formatter("{x:g}")
    axes.plot(*values, color=_BLUE, linewidth=1.5, marker=_marker(values))
    axes.locator_params(axis="x", nbins=5)
    _tidy(axes)


def _marker(values: Series) -> str:
    """A line of one point cannot be seen."""
    return "o" if len(values.steps) == 1 else ""
