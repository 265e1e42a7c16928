"""Draws a run's curves: `python -m eqx_clip.train runs/x/log.jsonl`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .log.curves import draw_curves


def main(arguments: Sequence[str] | None = None) -> None:
    """One picture of the log that the arguments name."""
    parser = argparse.ArgumentParser(
        prog="python -m eqx_clip.train",
        description="Draws the loss of a run, its learning rate, logit scale and gradient norm.",
    )
    parser.add_argument("path", type=Path, help="the run's JSON lines")
    parser.add_argument(
        "--picture",
        type=Path,
        default=Path("loss.png"),
        metavar="FILE",
        help="where to draw, .png, .pdf or .svg (%(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        draw_curves(options.path, options.picture)
    except (ImportError, OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")
    print(f"Drew it: {options.picture}")


if __name__ == "__main__":
    main()
