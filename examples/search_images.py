"""Finds the images of a folder that fit a text, or that look like another image.

    python examples/search_images.py photos "a dog on a beach"
    python examples/search_images.py photos --query-image beach.jpg -k 20
    python examples/search_images.py photos "a dog" --index photos.npz --out dogs.png

The folder is searched with all its sub-folders. Images are encoded once: an index keeps their
features, and later searches encode only what is new or has changed. The best are printed with
their cosines, and drawn side by side in one picture.
"""

import argparse
import hashlib
import os
import zipfile
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import eqx_clip


FORMAT = "eqx_clip image index, version 1"
THUMBNAIL, MARGIN, LINE = 224, 12, 22  # pixels


class Files(NamedTuple):
    """Paths, and what changes with a file: whoever has equal entries has the same images."""

    paths: list[str]
    stamps: np.ndarray  # int64 (files, 2), sizes in bytes and times of change in nanoseconds

    def take(self, indices: list[int]) -> "Files":
        return Files([self.paths[index] for index in indices], self.stamps[indices])


class Index(NamedTuple):
    files: Files
    features: np.ndarray  # float (files, embed), unit vectors


def main(arguments: argparse.Namespace) -> None:
    # What can go wrong goes wrong before the long part, downloads and encoding.
    folder, index_path = arguments.folder.resolve(), arguments.index
    files = list_images(folder)
    check_output(arguments.out, folder)
    if arguments.query_image is not None:
        eqx_clip.Preprocess()(arguments.query_image)
    if index_path is not None:
        read_index(index_path, "")

    model = eqx_clip.load(arguments.model, arguments.pretrained)
    identity = fingerprint(model)
    if index_path is None:
        index_path = default_index(folder, identity)
    index = update_index(model, files, index_path, identity)

    query = arguments.query_image if arguments.text is None else f'"{arguments.text}"'
    cosines = index.features @ encode_query(model, arguments.text, arguments.query_image)
    best = np.argsort(-cosines, kind="stable")[: arguments.k]
    print(f"The {len(best)} of {len(cosines)} images nearest to {query}:")
    paths = [index.files.paths[place] for place in best]
    for path, cosine in zip(paths, cosines[best], strict=True):
        print(f"{cosine:.3f}  {printable(os.path.relpath(path, folder))}")
    captions = [
        f"{cosine:.3f}  {printable(os.path.basename(path))}"
        for path, cosine in zip(paths, cosines[best], strict=True)
    ]
    contact_sheet(f"nearest to {query}", paths, captions).save(arguments.out)
    print(f"Drew them: {arguments.out}")


def list_images(folder: Path) -> Files:
    """All files below `folder` whose names end as those of images do."""
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    Image.init()  # so that Pillow knows all its formats
    formats = Image.registered_extensions().items()
    suffixes = {suffix for suffix, name in formats if name in Image.OPEN}
    images = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in suffixes]
    images = [path for path in images if path.is_file()]
    if not images:
        raise ValueError(f"There is no image in {folder} or its sub-folders.")
    stats = [path.stat() for path in images]
    stamps = np.array([(stat.st_size, stat.st_mtime_ns) for stat in stats], np.int64)
    return Files([str(path) for path in images], stamps)


def check_output(path: Path, folder: Path) -> None:
    if path.resolve().is_relative_to(folder):
        raise ValueError(
            f"The picture {path} would lie in the folder that is searched, as one of its images: "
            "name another place with --out."
        )
    if path.is_dir():
        raise ValueError(f"--out must be a file; {path} is a folder.")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"There is no folder {path.parent} to write {path.name} to.")
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"--out must end in .png, .jpg or .webp; got {path}.")


# The index ----------------------------------------------------------------------------------------


def fingerprint(model: eqx_clip.CLIP) -> str:
    """Of all that an image's feature depends on: a model's name can come to mean other weights."""
    digest = hashlib.sha256(repr((jax.tree.structure(model.image), model.preprocess)).encode())
    for leaf in jax.tree.leaves(model.image):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def default_index(folder: Path, identity: str) -> Path:
    """One file for each folder and model in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eqx_clip" / "search"
    cache.mkdir(parents=True, exist_ok=True)
    return cache / f"{hashlib.sha256(f'{folder} {identity}'.encode()).hexdigest()[:32]}.npz"


def read_index(path: Path, identity: str) -> Index | None:
    """What `write_index` wrote for that model; None if there is no file, or it is of another model.

    Raises `ValueError` for any other file: it is somebody's, and must not be written over.
    """
    if not path.exists():
        if not path.resolve().parent.is_dir():
            raise ValueError(f"There is no folder {path.parent} to write {path.name} to.")
        return None
    stranger = f"{path} is no index of this program. Name another with --index, or remove it."
    if not path.is_file():
        raise ValueError(stranger)
    try:
        with np.load(path) as arrays:
            if str(arrays["format"]) != FORMAT:
                raise ValueError(stranger)
            if str(arrays["identity"]) != identity:
                return None
            files = Files([str(path) for path in arrays["paths"]], arrays["stamps"])
            return Index(files, arrays["features"])
    except (AttributeError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
        raise ValueError(stranger) from None


def write_index(path: Path, index: Index, identity: str) -> None:
    # Beside its place first, and then renamed: a search that is interrupted leaves the old index.
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            np.savez(
                file,
                format=FORMAT,
                identity=identity,
                paths=np.array(index.files.paths),
                stamps=index.files.stamps,
                features=index.features,
            )
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def update_index(model: eqx_clip.CLIP, files: Files, path: Path, identity: str) -> Index:
    """The features of `files`: from the index where it has them, else computed and written there.

    Files that cannot be read are named and left out; each search tries them anew.
    """
    old = read_index(path, identity)
    known = {} if old is None else dict(zip(entries(old.files), old.features, strict=True))
    current = entries(files)
    new = [place for place, entry in enumerate(current) if entry not in known]

    skipped: dict[int, Exception] = {}
    paths = files.take(new).paths
    features = eqx_clip.embed_images(model, paths, on_error=skipped.__setitem__)
    for place, error in skipped.items():
        print(f"skipped {printable(paths[place])}: {printable(str(error))}")
    read = [place for count, place in enumerate(new) if count not in skipped]
    known.update(zip([current[place] for place in read], features, strict=True))

    found = [place for place, entry in enumerate(current) if entry in known]
    if not found:
        raise ValueError("None of the images can be read.")
    index = Index(files.take(found), np.stack([known[current[place]] for place in found]))
    if old is None or entries(old.files) != entries(index.files):
        write_index(path, index, identity)
    print(f"{len(read)} images encoded, {len(found) - len(read)} known from {path}")
    return index


def entries(files: Files) -> list[tuple[str, int, int]]:
    return [(path, *stamp) for path, stamp in zip(files.paths, files.stamps.tolist(), strict=True)]


# The search ---------------------------------------------------------------------------------------


def encode_query(model: eqx_clip.CLIP, text: str | None, image: Path | None) -> np.ndarray:
    if image is not None:
        return eqx_clip.embed_images(model, [image], progress=False)[0]
    return eqx_clip.embed_texts(model, [text or ""], progress=False)[0]


def printable(path: str) -> str:
    """File names are bytes to some systems, and need not be text."""
    return os.fsencode(path).decode(errors="replace")


def contact_sheet(title: str, paths: list[str], captions: list[str]) -> Image.Image:
    """The images in rows, each with its caption."""
    columns = min(len(paths), 4)
    rows = -(-len(paths) // columns)
    cell_width, cell_height = THUMBNAIL + MARGIN, THUMBNAIL + LINE + MARGIN
    size = (columns * cell_width + MARGIN, LINE + rows * cell_height + 2 * MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    draw.text((MARGIN, MARGIN), fitting(title, size[0] - 2 * MARGIN, font), "black", font)
    # The whole image on white: as `longest` fits it, whatever the model itself crops.
    thumbnail = eqx_clip.Preprocess(THUMBNAIL, resize_mode="longest", fill_color=255)
    for place, (path, caption) in enumerate(zip(paths, captions, strict=True)):
        row, column = divmod(place, columns)
        x, y = MARGIN + column * cell_width, LINE + 2 * MARGIN + row * cell_height
        sheet.paste(Image.fromarray(thumbnail.pixels(path).transpose(1, 2, 0)), (x, y))
        draw.text((x, y + THUMBNAIL + 2), fitting(caption, THUMBNAIL, font), "black", font)
    return sheet


def fitting(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """`text`, cut to so many pixels if it is longer."""
    text = " ".join(text.split())
    cut = text
    while font.getlength(cut) > width:
        text = text[:-1]
        cut = f"{text}..."
    return cut


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Finds images by a text or by another image.")
    parser.add_argument("folder", type=Path, help="where to search")
    parser.add_argument("text", nargs="?", help="what the images should show")
    parser.add_argument("--query-image", type=Path, metavar="FILE", help="in the place of a text")
    parser.add_argument("-k", type=int, default=12, help="how many to show (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("results.png"), help="the picture (%(default)s)"
    )
    parser.add_argument(
        "--index", type=Path, metavar="FILE", help="features (default: in the user's cache)"
    )
    parser.add_argument(
        "--model",
        default="vit-base-patch32",
        help="a registered name, a folder, or hf-hub:organisation/repository (%(default)s)",
    )
    parser.add_argument("--pretrained", metavar="TAG", help="which weights of a registered model")
    arguments = parser.parse_args()
    if (arguments.text is None) == (arguments.query_image is None):
        parser.error("either a text or --query-image is needed")
    if arguments.k < 1:
        parser.error(f"-k must be at least 1; got {arguments.k}")
    try:
        main(arguments)
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")
