#!/usr/bin/env bash
# datasets 5.2.0: `Dataset.to_parquet` of images that came from files, a folder of images among them,
# writes no image: `bytes` is null in every row, `path` is the place on the writer's machine. The
# file loads elsewhere without a word, and fails when the first image is asked for.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 pyarrow==26.0.1 pillow==13.0.0
mkdir "$folder/images"
cat > "$folder/write.py" <<'PYTHON'
import sys

import datasets
import pyarrow.parquet
from PIL import Image

folder = sys.argv[1]
for name in ("0.png", "1.png"):
    Image.new("RGB", (8, 8), "red").save(f"{folder}/images/{name}")
with open(f"{folder}/images/metadata.csv", "w") as stream:
    stream.write("file_name,text\n0.png,a square\n1.png,a red square\n")
images = datasets.load_dataset(
    "imagefolder", data_dir=f"{folder}/images", split="train", cache_dir=f"{folder}/cache"
)
images.to_parquet(f"{folder}/images.parquet")
rows = pyarrow.parquet.read_table(f"{folder}/images.parquet").to_pylist()
without = sum(row["image"]["bytes"] is None for row in rows)
local = sum(row["image"]["path"].startswith(folder) for row in rows)
print(f"{without} of {len(rows)} rows hold no bytes; {local} paths name the writer's folder")
assert without == local == len(rows) == 2, "to_parquet now writes the images"
PYTHON
cat > "$folder/read.py" <<'PYTHON'
import sys

import datasets

folder = sys.argv[1]
images = datasets.load_dataset(
    "parquet", data_files=f"{folder}/images.parquet", split="train", cache_dir=f"{folder}/other"
)
print(f"loaded without the files: {len(images)} rows, {images.features}")
try:
    images[0]
except FileNotFoundError as error:
    print(f"the first image: {type(error).__name__}")
else:
    raise AssertionError("the image is there")
PYTHON
export HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
"$folder/venv/bin/python" "$folder/write.py" "$folder"
rm -r "$folder/images"
"$folder/venv/bin/python" "$folder/read.py" "$folder"
