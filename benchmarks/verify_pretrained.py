"""Do the weights on the hub, loaded here, answer as OpenCLIP published?

    python benchmarks/verify_pretrained.py                              # all: 163 GB to download
    python benchmarks/verify_pretrained.py vit-base-patch32 ViT-L-14    # these models
    python benchmarks/verify_pretrained.py --tags laion2b-e16 --limit 1000 --json verified.json

Downloads each pair of the registry, loads it, and asks two questions of it:

- OpenCLIP's picture test: CLIP's diagram is "a diagram", not "a dog" or "a cat". For the pair that
  OpenCLIP tests itself, with its own numbers.
- CIFAR-10, zero-shot: is the accuracy on the 10,000 test images the published one?

Prints a table as it goes. A pair that fails, for whatever reason, does not stop the others; the
exit code is 1 if any failed, and 2 if nothing could be checked. Needs a network, or all files in
the hub's cache and `--cifar10` and `--picture`; and better a GPU or TPU: for vit-huge-patch14 the
10,000 images are 3.3e15 FLOPs.
"""

import argparse
import dataclasses
import hashlib
import http.client
import json
import os
import shutil
import sys
import tarfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import equinox as eqx
import jax
import numpy as np

import eqx_clip
from eqx_clip.zoo.pretrained import Pretrained, find_pretrained


# Top-1 of `docs/openclip_results.csv` in OpenCLIP's repository. Weights of the quick GELU have two
# rows there, and these are those of the `-quickgelu` names. Where there is no such row, as for
# dfn2b: should it fail by a point or two, then its row, of the plain name, was measured with the
# exact GELU, and says nothing of the weights. No number is published there for SigLIP 2, MetaCLIP 2
# and five other pairs.
PUBLISHED = {
    ("convnext-base", "laion400m-s13b-b51k"): 0.8899,
    ("convnext-base-w", "laion-aesthetic-s13b-b82k"): 0.8305,
    ("convnext-base-w", "laion-aesthetic-s13b-b82k-320"): 0.8613,
    ("convnext-base-w", "laion-aesthetic-s13b-b82k-augreg-320"): 0.8823,
    ("convnext-base-w", "laion2b-s13b-b82k"): 0.9383,
    ("convnext-base-w", "laion2b-s13b-b82k-augreg"): 0.9561,
    ("convnext-large-d", "laion2b-s26b-b102k-augreg"): 0.9655,
    ("convnext-large-d", "laion2b-s29b-b131k-ft-320"): 0.9647,
    ("convnext-large-d", "laion2b-s29b-b131k-ft-soup-320"): 0.9659,
    ("vit-base-patch32", "openai"): 0.8983,
    ("vit-base-patch32", "commonpool-m-clip-s128m-b4k"): 0.8405,
    ("vit-base-patch32", "commonpool-m-laion-s128m-b4k"): 0.7744,
    ("vit-base-patch32", "commonpool-m-image-s128m-b4k"): 0.7815,
    ("vit-base-patch32", "commonpool-m-text-s128m-b4k"): 0.8164,
    ("vit-base-patch32", "commonpool-m-basic-s128m-b4k"): 0.6321,
    ("vit-base-patch32", "commonpool-m-s128m-b4k"): 0.7459,
    ("vit-base-patch32", "datacomp-s-s13m-b4k"): 0.3176,
    ("vit-base-patch32", "commonpool-s-clip-s13m-b4k"): 0.4768,
    ("vit-base-patch32", "commonpool-s-laion-s13m-b4k"): 0.3364,
    ("vit-base-patch32", "commonpool-s-image-s13m-b4k"): 0.3176,
    ("vit-base-patch32", "commonpool-s-text-s13m-b4k"): 0.4679,
    ("vit-base-patch32", "commonpool-s-basic-s13m-b4k"): 0.2664,
    ("vit-base-patch32", "commonpool-s-s13m-b4k"): 0.4079,
    ("vit-base-patch32", "metaclip-400m"): 0.9125,
    ("vit-base-patch32", "metaclip-fullcc"): 0.9518,
    ("vit-base-patch32", "laion400m-e31"): 0.9060,
    ("vit-base-patch32", "laion400m-e32"): 0.9074,
    ("vit-base-patch32", "laion2b-e16"): 0.9403,
    ("vit-base-patch32", "laion2b-s34b-b79k"): 0.9358,
    ("vit-base-patch32", "datacomp-m-s128m-b4k"): 0.8252,
    ("vit-base-patch32", "datacomp-xl-s13b-b90k"): 0.9561,
    ("vit-base-patch16", "openai"): 0.9077,
    ("vit-base-patch16", "datacomp-l-s1b-b8k"): 0.9381,
    ("vit-base-patch16", "commonpool-l-clip-s1b-b8k"): 0.9349,
    ("vit-base-patch16", "commonpool-l-laion-s1b-b8k"): 0.9296,
    ("vit-base-patch16", "commonpool-l-image-s1b-b8k"): 0.9321,
    ("vit-base-patch16", "commonpool-l-text-s1b-b8k"): 0.9391,
    ("vit-base-patch16", "commonpool-l-basic-s1b-b8k"): 0.8289,
    ("vit-base-patch16", "commonpool-l-s1b-b8k"): 0.9133,
    ("vit-base-patch16", "metaclip-400m"): 0.9014,
    ("vit-base-patch16", "metaclip-fullcc"): 0.9572,
    ("vit-base-patch16", "laion400m-e31"): 0.9169,
    ("vit-base-patch16", "laion400m-e32"): 0.9172,
    ("vit-base-patch16", "laion2b-s34b-b88k"): 0.9494,
    ("vit-base-patch16", "dfn2b"): 0.9672,
    ("vit-base-patch16", "datacomp-xl-s13b-b90k"): 0.9624,
    ("vit-large-patch14", "openai"): 0.9559,
    ("vit-large-patch14", "datacomp-xl-s13b-b90k"): 0.9824,
    ("vit-large-patch14", "commonpool-xl-clip-s13b-b90k"): 0.9797,
    ("vit-large-patch14", "commonpool-xl-laion-s13b-b90k"): 0.9796,
    ("vit-large-patch14", "commonpool-xl-s13b-b90k"): 0.9801,
    ("vit-large-patch14", "metaclip-400m"): 0.9544,
    ("vit-large-patch14", "metaclip-fullcc"): 0.9759,
    ("vit-large-patch14", "dfn2b"): 0.9836,
    ("vit-large-patch14", "laion400m-e31"): 0.9465,
    ("vit-large-patch14", "laion400m-e32"): 0.9464,
    ("vit-large-patch14", "laion2b-s32b-b82k"): 0.9662,
    ("vit-huge-patch14", "metaclip-fullcc"): 0.9804,
    ("vit-huge-patch14", "dfn5b"): 0.9878,
    ("vit-huge-patch14", "laion2b-s32b-b79k"): 0.9745,
    ("RN50", "yfcc15m"): 0.4919,
    ("RN50", "cc12m"): 0.5404,
    ("RN50", "openai"): 0.7157,
    ("RN101", "yfcc15m"): 0.5298,
    ("RN101", "openai"): 0.8078,
    ("RN50x4", "openai"): 0.7943,
    ("RN50x16", "openai"): 0.8134,
    ("RN50x64", "openai"): 0.8510,
    ("ViT-B-32-256", "datacomp-s34b-b86k"): 0.9653,
    ("ViT-B-16-plus-240", "laion400m-e31"): 0.9247,
    ("ViT-B-16-plus-240", "laion400m-e32"): 0.9273,
    ("ViT-L-14-336", "openai"): 0.9493,
    ("ViT-H-14-378", "dfn5b"): 0.9880,
    ("ViT-g-14", "laion2b-s12b-b42k"): 0.9706,
    ("ViT-g-14", "laion2b-s34b-b88k"): 0.9815,
    ("ViT-bigG-14", "laion2b-s39b-b160k"): 0.9824,
    ("convnext_xxlarge", "laion2b-s34b-b82k-augreg"): 0.9816,
    ("convnext_xxlarge", "laion2b-s34b-b82k-augreg-rewind"): 0.9823,
    ("convnext_xxlarge", "laion2b-s34b-b82k-augreg-soup"): 0.9822,
    ("ViT-B-16-SigLIP", "webli"): 0.9234,
    ("ViT-B-16-SigLIP-256", "webli"): 0.9334,
    ("ViT-B-16-SigLIP-i18n-256", "webli"): 0.9118,
    ("ViT-B-16-SigLIP-384", "webli"): 0.9276,
    ("ViT-B-16-SigLIP-512", "webli"): 0.9265,
    ("ViT-L-16-SigLIP-256", "webli"): 0.9619,
    ("ViT-L-16-SigLIP-384", "webli"): 0.9605,
    ("ViT-SO400M-14-SigLIP", "webli"): 0.9679,
    ("ViT-SO400M-14-SigLIP-384", "webli"): 0.9672,
    ("ViT-L-14-CLIPA", "datacomp1b"): 0.9866,
    ("ViT-L-14-CLIPA-336", "datacomp1b"): 0.9864,
    ("ViT-H-14-CLIPA", "datacomp1b"): 0.9888,
    ("ViT-H-14-CLIPA-336", "laion2b"): 0.9826,
    ("ViT-H-14-CLIPA-336", "datacomp1b"): 0.9890,
    ("ViT-bigG-14-CLIPA", "datacomp1b"): 0.9912,
    ("ViT-bigG-14-CLIPA-336", "datacomp1b"): 0.9904,
}

# The published numbers are of the same weights, images and prompts, so nothing but rounding, on
# other hardware and perhaps in TensorFloat-32, can move an image across a boundary between two
# classes: some in a thousand, in both directions. What must be caught costs more: the wrong GELU
# takes 2.35 points from vit-base-patch32 laion400m-e31. Hence half a point.
TOLERANCE = 0.005
# With `--limit` it is a sample, and this many of its standard errors are added: with four, one run
# in hundreds fails by chance although all pairs are right.
STANDARD_ERRORS = 4

# The pair of OpenCLIP's own test, tests/test_inference_simple.py, and that test's tolerances.
TESTED_BY_OPEN_CLIP = ("vit-base-patch32", "laion2b-s34b-b79k")
RTOL, ATOL = 1e-5, 1e-8

PICTURE_URL = "https://raw.githubusercontent.com/mlfoundations/open_clip/main/docs/CLIP.png"
PICTURE_TEXTS = ("a diagram", "a dog", "a cat")

# The binary version. The other one for Python is a pickle, and could run code.
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
# CLIP's prompts for CIFAR-10, which CLIP_benchmark uses: eight of an article, and "a photo of a".
KINDS = ("blurry ", "black and white ", "low contrast ", "high contrast ", "bad ", "good ")
TEMPLATES = tuple(
    template
    for article in ("a", "the")
    for template in (
        f"a photo of {article} {{}}.",
        *(f"a {kind}photo of {article} {{}}." for kind in KINDS),
        *(f"a photo of {article} {size} {{}}." for size in ("small", "big")),
    )
)


@dataclasses.dataclass
class Result:
    """What became of one pair. Numbers that were not reached are None."""

    model: str
    tag: str
    diagram: float | None = None
    accuracy: float | None = None
    published: float | None = None
    allowed: float | None = None
    images: int | None = None
    failures: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Questions:
    """A picture, and labelled images (number, 32, 32, 3) of the `total` that the test set has."""

    picture: Path
    images: np.ndarray
    labels: np.ndarray
    total: int


def verify(row: Pretrained, questions: Questions, *, batch_size: int, cache_dir: Path | None):
    """One pair's result. Whatever goes wrong is part of it."""
    result = Result(row.model, row.tag)
    try:
        model = eqx_clip.load(row.model, row.tag, cache_dir=cache_dir)
        with jax.default_matmul_precision("highest"):  # to compare weights, not roundings
            check_picture(result, model, questions.picture)
            check_cifar10(result, model, questions, batch_size)
    except Exception as error:
        result.failures.append(f"{type(error).__name__}: {error}")
    return result


def check_picture(result: Result, model: eqx_clip.CLIP, picture: Path) -> None:
    image, tokens = model.preprocess(picture), model.tokenize(PICTURE_TEXTS)
    probabilities, raw = map(np.asarray, picture_probabilities(model, image, tokens))
    result.diagram = float(probabilities[0])
    if not result.diagram > 0.5:
        result.failures.append(f"The picture is {PICTURE_TEXTS[np.argmax(probabilities)]!r}.")
    tested = (result.model, result.tag) == TESTED_BY_OPEN_CLIP
    if tested and not np.allclose(raw, [1, 0, 0], RTOL, ATOL):
        result.failures.append(f"OpenCLIP's test expects [1, 0, 0]; got {raw}.")


@eqx.filter_jit
def picture_probabilities(
    model: eqx_clip.CLIP, image: np.ndarray, tokens: np.ndarray
) -> tuple[jax.Array, jax.Array]:
    """As trained; and as in OpenCLIP's test, of features that are not normalised, times 100."""
    raw_image = model.encode_image(image, normalize=False)
    raw_texts = jax.vmap(lambda row: model.encode_text(row, normalize=False))(tokens)
    logits = model.logits(model.encode_image(image), jax.vmap(model.encode_text)(tokens))
    return jax.nn.softmax(logits), jax.nn.softmax(100 * (raw_texts @ raw_image))


def check_cifar10(
    result: Result, model: eqx_clip.CLIP, questions: Questions, batch_size: int
) -> None:
    classifier = np.asarray(eqx_clip.zero_shot_classifier(model, CLASSES, TEMPLATES))
    features = eqx_clip.embed_images(model, questions.images, batch_size=batch_size)
    answers = np.argmax(features @ classifier.T, axis=1)
    result.images = len(answers)
    result.accuracy = float(np.mean(answers == questions.labels))
    result.published = PUBLISHED[result.model, result.tag]
    result.allowed = allowed(result.published, result.images, questions.total)
    difference = result.accuracy - result.published
    if not abs(difference) <= result.allowed:
        result.failures.append(
            f"CIFAR-10 is {100 * difference:+.2f} points from the published accuracy."
        )


def allowed(published: float, count: int, total: int) -> float:
    """The difference that is no failure, for `count` of `total` images."""
    # Of a sample without replacement: none for the whole set, which the published number is of.
    variance = published * (1 - published) / count * (total - count) / max(total - 1, 1)
    return TOLERANCE + STANDARD_ERRORS * variance**0.5


def read_cifar10(path: Path, limit: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    """The first `limit` test images (number, 32, 32, 3), their labels, and how many there are."""
    with tarfile.open(path) as archive:

        def read(name: str) -> bytes:
            file = archive.extractfile(f"cifar-10-batches-bin/{name}")
            assert file is not None, name
            with file:
                return file.read()

        names = tuple(read("batches.meta.txt").decode().split())
        if names != CLASSES:
            raise ValueError(f"{path} has the classes {names}, not {CLASSES}.")
        records = np.frombuffer(read("test_batch.bin"), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    images = records[:limit, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, records[:limit, 0], len(records)


def check_digest(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise ValueError(f"{path} is damaged or another file: its SHA-256 is {digest}.")


def fetch(url: str, folder: Path, sha256: str | None = None) -> Path:
    """The file of `url` in `folder`, downloaded if it is not there yet, whole or not at all."""
    path = folder / url.rsplit("/", 1)[-1]
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        print(f"downloading {url}", file=sys.stderr)
        try:
            download(url, part)
        except (OSError, http.client.HTTPException) as error:
            raise OSError(
                f"Cannot download {url}: {error}. Try again, or fetch it elsewhere and pass it as "
                "`--picture` or `--cifar10`."
            ) from error
        if sha256 is not None:
            check_digest(part, sha256)
        part.replace(path)
    return path


def download(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=60) as response, path.open("wb") as file:
        shutil.copyfileobj(response, file)
        expected = response.headers["Content-Length"]
        if expected is not None and file.tell() != int(expected):
            raise OSError(f"it broke off after {file.tell()} of {expected} bytes")


def ask(arguments: argparse.Namespace) -> Questions:
    folder = arguments.data
    picture = arguments.picture or fetch(PICTURE_URL, folder)
    archive = arguments.cifar10 or fetch(CIFAR10_URL, folder, CIFAR10_SHA256)
    check_digest(archive, CIFAR10_SHA256)
    eqx_clip.Preprocess()(picture)  # what is wrong with it shows before any weights are fetched
    return Questions(picture, *read_cifar10(archive, arguments.limit))


def chosen(models: Sequence[str], tags: Sequence[str]) -> list[Pretrained]:
    """The rows of these models and tags, by our or OpenCLIP's names, that have a published number.

    None means all.
    """
    rows: dict[tuple[str, str], Pretrained] = {}
    for model in models or dict(eqx_clip.list_pretrained()):
        for tag in eqx_clip.list_pretrained_by_model(model):
            row = find_pretrained(model, tag)
            if (row.model, row.tag) in PUBLISHED:
                rows[row.model, row.tag] = row
    wanted = {tag.lower().replace("_", "-") for tag in tags}
    found = [
        row
        for row in rows.values()
        if not wanted or wanted & {row.tag, row.open_clip[1].replace("_", "-")}
    ]
    missing = wanted.difference(*({row.tag, row.open_clip[1].replace("_", "-")} for row in found))
    if missing or not found:
        named = ", ".join(sorted(missing)) or ", ".join(models)
        raise ValueError(
            f"No such weights: {named}. `eqx_clip.list_pretrained()` lists all, and "
            "`PUBLISHED` those whose accuracy is known."
        )
    return found


HEADER = f"{'model':18} {'tag':37} {'diagram':>8} {'CIFAR-10':>8} {'published':>9} {'allowed':>8}"


def line(result: Result) -> str:
    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else form.format(100 * value)

    cells = (
        f"{result.model:18} {result.tag:37} {shown(result.diagram, '{:.2f}%'):>8} "
        f"{shown(result.accuracy, '{:.2f}%'):>8} {shown(result.published, '{:.2f}%'):>9} "
        f"{shown(result.allowed, '±{:.2f}'):>8}"
    )
    verdict = f"FAILED: {' '.join(result.failures)}" if result.failures else "ok"
    return f"{cells}  {' '.join(verdict.split())}"


def parse(argv: Sequence[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="names, ours or OpenCLIP's (default: all)")
    parser.add_argument("--tags", nargs="+", default=[], help="of these models, only these weights")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--cifar10", type=Path, help="a local cifar-10-binary.tar.gz")
    parser.add_argument("--picture", type=Path, help="a local CLIP.png, of OpenCLIP's docs")
    parser.add_argument("--cache-dir", type=Path, help="for weights (default: the hub's cache)")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eqx_clip"
    parser.add_argument("--data", type=Path, default=cache, help="for the images (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    return parser, parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    parser, arguments = parse(argv)
    if arguments.limit is not None and arguments.limit < 1:
        parser.error("--limit must be at least 1")
    if arguments.batch_size < 1:
        parser.error("--batch-size must be at least 1")
    if arguments.json and not arguments.json.resolve().parent.is_dir():
        parser.error(f"there is no folder {arguments.json.parent} to write --json to")
    try:
        rows = chosen(arguments.models, arguments.tags)
        questions = ask(arguments)
    except (OSError, ValueError, tarfile.TarError) as error:
        parser.exit(2, f"error: {error}\n")
    print(HEADER)
    results = []
    for row in rows:
        results.append(
            verify(row, questions, batch_size=arguments.batch_size, cache_dir=arguments.cache_dir)
        )
        print(line(results[-1]), flush=True)
        if arguments.json:  # after each, so that an interruption loses nothing
            dicts = [dataclasses.asdict(result) for result in results]
            arguments.json.write_text(json.dumps(dicts, indent=2) + "\n")
    failed = sum(bool(result.failures) for result in results)
    print(f"{len(results) - failed} of {len(results)} as published")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
