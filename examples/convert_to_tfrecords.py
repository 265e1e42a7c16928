"""Writes a data set of images and texts as TFRecord files, in img2dataset's layout.

    python examples/convert_to_tfrecords.py train.csv shards
    python examples/convert_to_tfrecords.py train.csv shards --image-key path --text-key words
    python examples/convert_to_tfrecords.py train.csv shards --split 'train[:90%]'

Few large files are read faster than many small ones where storage is slow or far away. Images
are copied as they are stored, not encoded again. The shards are then a data set like any other:
`eqx_clip.data.open_source("shards")`.
"""

import argparse

from eqx_clip.data import open_source, write_tfrecords


def main(arguments: argparse.Namespace) -> None:
    source = open_source(
        arguments.path,
        image_key=arguments.image_key,
        text_key=arguments.text_key,
        split=arguments.split,
    )
    write_tfrecords(source, arguments.folder, shard_size=arguments.shard_size)
    print(f"{len(source)} examples are in {arguments.folder}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Writes images and texts as TFRecord files.")
    parser.add_argument("path", help="a table, a folder of tar files, or what TFDS prepared")
    parser.add_argument("folder", help="where to write, here or at gs://, s3://")
    parser.add_argument("--image-key", metavar="NAME", help="the column or feature of the images")
    parser.add_argument("--text-key", metavar="NAME", help="that of the texts")
    parser.add_argument("--split", default="train", help="or 'train[:90%%]' (%(default)s)")
    parser.add_argument(
        "--shard-size", type=int, default=10_000, metavar="N", help="images a file (%(default)s)"
    )
    arguments = parser.parse_args()
    try:
        main(arguments)
    except (ImportError, OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")
