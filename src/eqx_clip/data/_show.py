"""A report on a data set for people: a table on the screen, and one picture."""

import collections
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ._report import Report


_BARS, _SHOWN = 40, 12  # of a histogram, of repeated captions in the picture
_BLUE, _RED = "#1f5fa8", "#c0392b"


def table(report: Report) -> str:
    """The report in lines for a screen."""
    lines = [f"{'rows':<16}{report.rows:,}, of which {report.samples:,} were looked at"]
    lines += _bad_lines(report)
    if report.good:
        lines += ["", *_size_lines(report), "", *_caption_lines(report)]
    if report.images_per_second is not None:
        workers = f"{report.num_workers} worker{'s' * (report.num_workers != 1)}"
        lines.append(f"{'images/s':<16}{report.images_per_second:,.0f} with {workers}")
    return "\n".join(lines)


def _bad_lines(report: Report) -> Iterator[str]:
    yield f"{'bad samples':<16}{_share(len(report.bad), report.samples)}"
    yield f"{'no caption':<16}{_share(report.missing_captions, report.samples)}"
    for cause, count in collections.Counter(bad.cause for bad in report.bad).most_common():
        first = next(bad for bad in report.bad if bad.cause == cause)
        yield f"  {count:,} {cause}, the first: {first.where}. {first.message}"


def _size_lines(report: Report) -> Iterator[str]:
    yield f"{'':<16}" + "".join(f"{name:>9}" for name in ("least", "5%", "median", "95%", "most"))
    for name, values in (
        ("width", report.widths),
        ("height", report.heights),
        ("shortest side", report.shortest_sides),
        ("caption, tokens", report.lengths),
    ):
        cells = np.percentile(values, (0, 5, 50, 95, 100))
        yield f"{name:<16}" + "".join(f"{cell:>9,.0f}" for cell in cells)


def _caption_lines(report: Report) -> Iterator[str]:
    formats = (f"{name} {count:,}" for name, count in report.formats.items())
    yield f"{'formats':<16}{', '.join(formats)}"
    if report.cut_off:
        yield (
            f"{'16-bit grey':<16}{_share(report.cut_off, report.good)}, or floats: Pillow makes "
            "all values above 255 white. Scale them to 8 bits first."
        )
    count = len(report.lengths)
    if count != report.good:
        yield f"{'captions':<16}{count:,}, {count / report.good:.2f} a sample"
    cut = _share(report.cut, count)
    yield f"{'cut captions':<16}{cut}: more than {report.context_length} tokens"
    yield f"{'empty captions':<16}{_share(report.empty, count)}"
    yield f"{'repeated':<16}{_share(report.repeated, count)}: another sample has the caption, too"
    yield (
        f"{'false negatives':<16}{report.false_negatives:.3g} in a batch of {report.batch_size:,}, "
        "on average: their caption is also another's"
    )


def _share(count: int, whole: int) -> str:
    return f"{count:,} ({count / max(1, whole):.2%})"


def check_picture(path: Path) -> None:
    """Raises `ValueError` for a file that `draw` could not write, before the long part."""
    if not path.resolve().parent.is_dir():
        raise ValueError(f"There is no folder {path.parent} to write {path.name} to.")
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"The picture must end in .png, .pdf or .svg; got {path}.")


def draw(report: Report, path: Path) -> None:
    """Histograms of shortest sides and of caption lengths, and the most repeated captions."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "The picture needs matplotlib: `pip install 'eqx_clip[demo]'`."
        ) from error
    figure = Figure(figsize=(16, 4.5), layout="constrained")
    sides, lengths, captions = figure.subplots(1, 3)
    _draw_histogram(sides, report.shortest_sides, "shortest side, pixels")
    _draw_histogram(lengths, report.lengths, "caption, tokens", least_end=report.context_length)
    lengths.axvline(report.context_length, color=_RED, linestyle="--", linewidth=1)
    lengths.set_title(f"{_share(report.cut, len(report.lengths))} cut at {report.context_length}")
    _draw_captions(captions, report)
    with warnings.catch_warnings():  # captions are of all languages, the font is not
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(path, dpi=120)


def _draw_histogram(axes: Any, values: np.ndarray, name: str, least_end: int = 0) -> None:
    """Of all but the largest hundredth, which the last bar takes in: it may be far away."""
    low, end = values.min(), max(math.ceil(np.percentile(values, 99)), least_end)
    width = math.ceil((end - low + 1) / _BARS)  # whole, so that each bar has as many values
    edges = np.arange(low, end + width + 1, width) - 0.5
    axes.hist(np.minimum(values, end), edges, color=_BLUE)
    axes.set(xlabel=name, ylabel="samples")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_captions(axes: Any, report: Report) -> None:
    most = [(text, count) for text, count in report.captions[:_SHOWN] if count > 1]
    labels = [_shortened(text) for text, _ in most]
    axes.barh(range(len(most)), [count for _, count in most], color=_BLUE)
    axes.set_yticks(range(len(most)), labels, parse_math=False)  # a caption may have two dollars
    axes.invert_yaxis()
    axes.set(xlabel="samples")
    axes.set_title(f"{_share(report.repeated, len(report.lengths))} with a repeated caption")
    axes.spines[["top", "right"]].set_visible(False)


def _shortened(text: str, length: int = 40) -> str:
    line = " ".join(text.split()) or "(empty)"
    return line if len(line) <= length else f"{line[: length - 3]}..."
