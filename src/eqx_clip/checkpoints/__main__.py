"""Says what a file of weights is: `python -m eqx_clip.checkpoints FILE_OR_FOLDER`."""

import argparse
from collections.abc import Sequence

from .report import examine


def main(arguments: Sequence[str] | None = None) -> None:
    """A table on the screen of the file that the arguments name."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        report = examine(options.path)
        width = max(len(name) for name, _ in report.lines)
        print("\n".join(f"{name:{width}}  {text}" for name, text in report.lines))
        if report.error is not None:
            raise ValueError(f"`eqx_clip.load` says: {report.error}")
    except (ImportError, OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eqx_clip.checkpoints",
        description="Says what a file of weights is, by its headers, and what `load` makes of it.",
        epilog="For example: python -m eqx_clip.checkpoints weights.safetensors",
    )
    parser.add_argument(
        "path", help="a file (.safetensors, .pt, .bin, .npz, ...), or a folder with one in it"
    )
    return parser


if __name__ == "__main__":
    main()
