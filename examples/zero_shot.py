"""Which text fits an image best?

    python examples/zero_shot.py CLIP.png "a diagram" "a dog" "a cat"
    python examples/zero_shot.py CLIP.png "a dog" "a cat" --model vit-large-patch14
    python examples/zero_shot.py CLIP.png "a dog" "a cat" --model path/to/a/saved/model

Prints the texts with their probabilities, the likeliest first.
"""

import argparse
import sys

import eqx_clip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", help="path of an image")
    parser.add_argument("texts", nargs="+", metavar="text", help="texts to compare it with")
    parser.add_argument(
        "--model",
        default="vit-base-patch32",
        help="a registered name, a folder, or hf-hub:organisation/name (default: %(default)s)",
    )
    parser.add_argument("--pretrained", help="a tag of the model (default: its last listed)")
    arguments = parser.parse_args()
    try:
        clip = eqx_clip.CLIPInference(arguments.model, arguments.pretrained or True)
        per_image, _ = clip(arguments.image, arguments.texts)
    except (ValueError, OSError) as error:  # a wrong name, no network, a missing or broken file
        print(f"zero_shot.py: {error}", file=sys.stderr)
        return 2
    scores = zip(per_image[0].tolist(), arguments.texts, strict=True)
    for probability, text in sorted(scores, reverse=True):
        print(f"{probability:7.2%}  {'#' * round(30 * probability):30}  {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
