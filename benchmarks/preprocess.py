"""How fast does a photograph become a model's input, against OpenCLIP's transform?

    python benchmarks/preprocess.py

JPEGs in memory, decoded, resized, cropped and normalised on one thread, as OpenCLIP's workers do;
and the uint8 pixels alone, which is what `embed_images` sends to the device.
"""

import io

import common
import numpy as np
from PIL import Image

import eqx_clip


def main() -> None:
    parser = common.parser(__doc__, rounds=9)
    parser.add_argument("--images", type=int, default=20, help="a round (%(default)s)")
    arguments = parser.parse_args()
    from oracle import open_clip

    ours, theirs = eqx_clip.Preprocess(224), open_clip.image_transform(224, is_train=False)
    rows = []
    for width, height in ((320, 240), (640, 480), (1920, 1080)):
        data = common.jpeg(np.random.default_rng(0), width, height)
        assert np.array_equal(ours(data), theirs(Image.open(io.BytesIO(data))).numpy())
        sides = {
            "eqx_clip": lambda data=data: ours(data),
            "eqx_clip, pixels": lambda data=data: ours.pixels(data),
            "OpenCLIP": lambda data=data: theirs(Image.open(io.BytesIO(data))),
        }
        seconds = common.alternate(
            {
                name: lambda run=run: [run() for _ in range(arguments.images)]
                for name, run in sides.items()
            },
            arguments.rounds,
        )
        rows.append(
            {
                "JPEG": f"{width} x {height}, {len(data) // 1000} kB",
                **{f"{name}, ms": 1e3 * time / arguments.images for name, time in seconds.items()},
                "ratio": seconds["OpenCLIP"] / seconds["eqx_clip"],
            }
        )
    common.report("Preprocessing, milliseconds an image", rows, arguments.json)


if __name__ == "__main__":
    main()
