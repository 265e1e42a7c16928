"""Says which of several texts describes an image best.

    python examples/zero_shot.py CLIP.png "a diagram" "a dog" "a cat"
    python examples/zero_shot.py CLIP.png "a diagram" "a dog" --model vit-base-patch16
    python examples/zero_shot.py CLIP.png "a diagram" "a dog" --model path/of/a/folder
    python examples/zero_shot.py CLIP.png "a diagram" "a dog" --model hf-hub:organisation/repository
    python examples/zero_shot.py --list

Registered weights and those of the hub are downloaded once, then the cache has them.
"""

import argparse

import numpy as np

import eqx_clip


def main() -> None:
    parser = argparse.ArgumentParser(description="Says which of several texts fits an image best.")
    parser.add_argument("image", nargs="?", help="a file that Pillow can read")
    parser.add_argument("texts", nargs="*", metavar="text", help="what the image may show")
    parser.add_argument(
        "--model",
        default="vit-base-patch32",
        help="a registered name, a folder, or hf-hub:organisation/repository (%(default)s)",
    )
    parser.add_argument(
        "--pretrained",
        default=True,
        metavar="TAG",
        help="which weights of a registered model (default: the last that --list shows)",
    )
    parser.add_argument("--list", action="store_true", help="show models and tags, and end")
    arguments = parser.parse_args()

    if arguments.list:
        for name, tag in eqx_clip.list_pretrained():
            print(f"{name:18} {tag}")
        return
    if not arguments.texts:
        parser.error("an image and at least one text are needed")
    try:
        eqx_clip.Preprocess()(arguments.image)  # better an error now than one after a download
        clip = eqx_clip.CLIPInference(arguments.model, arguments.pretrained)
        per_image, _ = clip(arguments.image, arguments.texts)
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")

    probabilities = np.asarray(per_image[0])
    for index in np.argsort(-probabilities, kind="stable"):
        bar = "#" * round(30 * float(probabilities[index]))
        print(f"{probabilities[index]:6.1%} {bar:30} {arguments.texts[index]}")


if __name__ == "__main__":
    main()
