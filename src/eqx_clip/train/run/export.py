"""The end of a run: the model in OpenCLIP's format."""

import logging
import tempfile
from pathlib import Path

import fsspec
import jax

from ..._clip import CLIP
from ...checkpoints.save import save
from ..evaluate.zero_shot_accuracy import on_one_device


logger = logging.getLogger("eqx_clip.train")


def export(model: CLIP, folder: str) -> None:
    """`eqx_clip.save` of a model that may be spread over a mesh, here or, by fsspec, anywhere.

    The first process writes; with several processes all must call this. Raises what `save` does.
    """
    model = on_one_device(model)
    if jax.process_index():
        return
    if "://" not in folder:
        save(model, folder)
    else:
        filesystem, path = fsspec.core.url_to_fs(folder)
        with tempfile.TemporaryDirectory() as draft:
            save(model, draft)
            filesystem.makedirs(path, exist_ok=True)
            for file in Path(draft).iterdir():
                filesystem.put_file(str(file), f"{path}/{file.name}")
    logger.info("The model is saved in OpenCLIP's format: %s", folder)
