"""Every block of Python in the README runs, in one session from top to bottom."""

import re
from pathlib import Path

import numpy as np
import pytest
from helpers import random_model
from PIL import Image

import eqx_clip
from eqx_clip.zoo.pretrained import find_pretrained
from eqx_clip.zoo.table import table


README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def hub_cache(tmp_path_factory):
    """A cache in the hub's layout, that holds random weights of the README's checkpoint."""
    row = find_pretrained("vit-base-patch32", "laion2b-s34b-b79k")
    cache = tmp_path_factory.mktemp("hub")
    repo = cache / f"models--{row.repos[0].replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    eqx_clip.save(random_model(row.config), repo / "snapshots" / ("0" * 40))
    return cache


def test_every_block_runs(hub_cache, tmp_path, monkeypatch, capsys):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub_cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(pixels).save("CLIP.png")
    rows = "".join(f"caption {i},CLIP.png\n" for i in range(4))
    Path("train.csv").write_text("caption,image_path\n" + rows)
    monkeypatch.setenv("EQX_CLIP_CACHE", str(tmp_path / "index"))
    namespace = {"__name__": "readme"}
    assert len(BLOCKS) >= 8
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), namespace)
    assert Path("my-model", "open_clip_config.json").exists()


def test_shapes_in_the_comments_hold(hub_cache):
    row = find_pretrained("vit-base-patch32", "laion2b-s34b-b79k")
    config = row.config
    assert config.image.grid == (7, 7) and config.image.width == 768 and config.image.depth == 12
    assert config.text.context_length == 77 and config.text.width == config.text.embed_dim == 512


def test_the_table_of_models_is_the_registrys():
    assert table() in README
    for model, tag in eqx_clip.list_pretrained():
        (line,) = (row for row in table().splitlines() if row.startswith(f"| {model} |"))
        assert re.search(rf"[ |]{re.escape(tag)}[ ,]", line), (model, tag)
    for model in eqx_clip.list_models():
        assert re.search(rf"[ |]{re.escape(model)}[ ,]", table()), model
