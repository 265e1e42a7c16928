"""Tables that took a pass over the data to make, kept outside it and mapped into memory."""

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa


logger = logging.getLogger("eqx_clip.data")


def cached(key: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> pa.Table:
    """The table of `batches`, or what an earlier call with this key wrote.

    It is kept in `EQX_CLIP_CACHE`, by default `~/.cache/eqx_clip`, and mapped into memory, so that
    processes share its pages. Where that folder cannot be written, the table is held in memory.

    **Arguments:**

    - `key`: of the content that the table is made of: no two contents may have the same.
    - `batches`: is not started where the table is there.
    """
    path = _folder() / f"{key}.arrow"
    try:
        return _mapped(path)
    except (OSError, pa.ArrowInvalid):  # not there, or cut short
        pass
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    except OSError as error:
        logger.warning("The index is not kept: %s. `EQX_CLIP_CACHE` names another folder.", error)
        return pa.Table.from_batches(batches, schema)
    try:
        with os.fdopen(handle, "wb") as stream, pa.ipc.new_file(stream, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return _mapped(path)


def _folder() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eqx_clip"
    return Path(os.environ.get("EQX_CLIP_CACHE") or default)


def _mapped(path: Path) -> pa.Table:
    with pa.memory_map(os.fspath(path)) as source:
        return pa.ipc.open_file(source).read_all()
