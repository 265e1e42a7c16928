#!/usr/bin/env bash
# img2dataset 1.47.0: a caption that is null in the list of URLs becomes an empty text file in the
# tar, while the JSON beside it and the Parquet output keep the null. Who trains on the tar cannot
# tell a missing caption from an empty one, and OpenCLIP's pipeline trains on both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet img2dataset==1.47.0 pyarrow==26.0.1 pillow==13.0.0
cat > "$folder/finding.py" <<'PYTHON'
import functools
import http.server
import json
import os
import sys
import tarfile
import threading

import pyarrow as pa
import pyarrow.parquet
from img2dataset import download
from PIL import Image

CAPTIONS = ["a square", None, ""]


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def main(folder):
    os.mkdir(f"{folder}/images")
    for i in range(len(CAPTIONS)):
        Image.new("RGB", (32, 32), "red").save(f"{folder}/images/{i}.jpg")
    handler = functools.partial(Silent, directory=f"{folder}/images")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    urls = [f"http://127.0.0.1:{server.server_port}/{i}.jpg" for i in range(len(CAPTIONS))]
    pyarrow.parquet.write_table(pa.table({"url": urls, "caption": CAPTIONS}), f"{folder}/urls.parquet")
    for output in ("webdataset", "parquet"):
        download(
            url_list=f"{folder}/urls.parquet",
            input_format="parquet",
            url_col="url",
            caption_col="caption",
            output_folder=f"{folder}/{output}",
            output_format=output,
            processes_count=1,
            thread_count=1,
            image_size=32,
        )
    server.shutdown()
    with tarfile.open(f"{folder}/webdataset/00000.tar") as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    texts = sorted(data for name, data in files.items() if name.endswith(".txt"))
    in_json = [json.loads(data)["caption"] for name, data in files.items() if name.endswith("json")]
    in_parquet = pyarrow.parquet.read_table(f"{folder}/parquet/00000.parquet")["caption"].to_pylist()
    print("texts in the tar:", texts, "captions in its JSON:", in_json, "in Parquet:", in_parquet)
    assert texts == [b"", b"", b"a square"], "the tar now tells missing captions"
    assert in_json.count(None) == in_parquet.count(None) == 1, "JSON or Parquet lost the null"


if __name__ == "__main__":
    main(sys.argv[1])
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/finding.py" "$folder" 2> "$folder/log" | grep texts ||
    { cat "$folder/log"; exit 1; }
