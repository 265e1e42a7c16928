"""How fast are `embed_images` and `embed_texts` against what one writes with OpenCLIP?

    python benchmarks/embed.py

Captions of 10 to 15 words, against OpenCLIP's `tokenize` and `encode_text` in batches; JPEG files
of 640 x 480 on disk, against OpenCLIP's transform in a torch DataLoader with two workers. The same
random weights of vit-base-patch32, float32.
"""

import tempfile
from pathlib import Path

import common
import numpy as np
from encode import ON_CPU
from PIL import Image

import eqx_clip


def write_jpegs(folder: Path, count: int) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [folder / f"{i:05}.jpg" for i in range(count)]
    for path in paths:
        path.write_bytes(common.jpeg(rng, 640, 480))
    return paths


def captions(count: int) -> list[str]:
    words = "a an the red old big small dog cat house tree river runs sits under near with over"
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(words.split(), rng.integers(10, 16))) for _ in range(count)]


def main() -> None:
    parser = common.parser(__doc__, rounds=3)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64, help="of both sides (%(default)s)")
    arguments = parser.parse_args()
    torch = common.use_all_cores()
    from models import oracle_config, oracle_model, save_oracle
    from oracle import open_clip

    name, batch = "vit-base-patch32", arguments.batch
    device = "cpu" if ON_CPU else "cuda"
    oracle = oracle_model(oracle_config(name)).to(device)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    transform = open_clip.image_transform(224, is_train=False)

    class Files(torch.utils.data.Dataset):
        def __len__(self):
            return len(paths)

        def __getitem__(self, i):
            return transform(Image.open(paths[i]))

    def their_images():
        loader = torch.utils.data.DataLoader(Files(), batch_size=batch, num_workers=2)
        return torch.cat([oracle.encode_image(x.to(device), normalize=True) for x in loader])

    def their_texts():
        chunks = [texts[i : i + batch] for i in range(0, len(texts), batch)]
        tokens = (tokenizer(chunk).to(device) for chunk in chunks)
        return torch.cat([oracle.encode_text(x, normalize=True) for x in tokens])

    texts = captions(arguments.texts)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = write_jpegs(Path(folder), arguments.images)
        size = np.mean([path.stat().st_size for path in paths]) / 1e3
        model = eqx_clip.load(name, save_oracle(oracle, Path(folder) / "weights.safetensors"))

        def our_images():
            return eqx_clip.embed_images(model, paths, batch_size=batch, progress=False)

        def our_texts():
            return eqx_clip.embed_texts(model, texts, batch_size=batch, progress=False)

        for what, ours, theirs, count in (
            ("captions", our_texts, their_texts, len(texts)),
            (f"JPEGs of {size:.0f} kB", our_images, their_images, len(paths)),
        ):
            difference = np.abs(ours() - theirs().cpu().numpy()).max()
            sides = {"eqx_clip": ours, "OpenCLIP": theirs}
            seconds = common.alternate(sides, arguments.rounds, warmups=0)
            rows.append(
                {
                    **{"what": what, "number": count, "batch": batch},
                    **{f"{side}, /s": count / time for side, time in seconds.items()},
                    "ratio": seconds["OpenCLIP"] / seconds["eqx_clip"],
                    "largest difference": float(difference),
                }
            )
    common.report("Embedding", rows, arguments.json)


if __name__ == "__main__":
    main()
