"""Looks a data set over before anyone trains on it: `python -m eqx_clip.data PATH`."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ._open import open_source
from ._report import Report, examine
from ._show import check_picture, draw, table


def main(arguments: Sequence[str] | None = None) -> None:
    """A table on the screen and one picture of the data set that the arguments name."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        check_picture(options.picture)
        source = open_source(
            options.path,
            image_key=options.image_key,
            text_key=options.text_key,
            image_root=options.image_root,
            split=options.split,
        )
        report = examine(
            source,
            samples=options.samples,
            batch_size=options.batch_size,
            context_length=options.context_length,
            num_workers=options.workers,
            seconds=options.seconds,
            empty_captions=options.empty_captions,
        )
        print(table(report))
        if not report.good:
            raise ValueError(f"None of the {report.samples:,} samples can be used.")
        print(f"\n{_drawn(report, options.picture)}")
    except (ImportError, OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")


def _drawn(report: Report, picture: Path) -> str:
    try:
        draw(report, picture)
    except ImportError as error:  # the table is worth something without it
        return str(error)
    return f"Drew it: {picture}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eqx_clip.data",
        description="Looks a data set over: sizes, captions, what cannot be read, images/s.",
    )
    parser.add_argument(
        "path", help="a table, a folder of tables, shards or images, or what TFDS prepared"
    )
    parser.add_argument("--image-key", metavar="NAME", help="the column or feature of the images")
    parser.add_argument("--text-key", metavar="NAME", help="that of the captions")
    parser.add_argument("--image-root", metavar="FOLDER", help="where a table's paths start")
    parser.add_argument("--split", default="train", help='or "train[:90%%]" (%(default)s)')
    parser.add_argument(
        "--empty-captions", action="store_true", help="take empty texts for captions"
    )
    for name, kind, default, meaning in (
        ("--samples", int, 2000, "how many to look at, at least a batch; 0: all"),
        ("--batch-size", int, 256, "in which repeated captions are counted"),
        ("--context-length", int, 77, "tokens, where captions are cut"),
        ("--workers", int, os.cpu_count() or 1, "processes that feed"),
        ("--seconds", float, 5.0, "how long to measure images/s; 0: not at all"),
        ("--picture", Path, Path("data.png"), "where to draw, .png, .pdf or .svg"),
    ):
        metavar = "FILE" if kind is Path else "N"
        help = f"{meaning} (%(default)s)"
        parser.add_argument(name, type=kind, default=default, metavar=metavar, help=help)
    return parser


if __name__ == "__main__":
    main()
