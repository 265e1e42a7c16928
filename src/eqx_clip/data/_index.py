"""Tables that took a pass over the data to make, kept outside it and mapped into memory."""

import errno
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from ._files import digest


logger = logging.getLogger("eqx_clip.data")


# What a disk answers that is full, or where no more or nothing as large may be written.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Not a `pa.Table`, which makes a column anew each time it is asked for one: of 40,000 shards in a
# millisecond, a quarter of what decoding takes.
Columns = list[pa.ChunkedArray]


def cached(key: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Columns:
    """The columns of `batches`, or what an earlier call with this key wrote.

    They are kept in `EQX_CLIP_CACHE`, by default `~/.cache/eqx_clip`, and mapped into memory, so
    that processes share the pages. Where that folder cannot be written, memory holds them.

    **Arguments:**

    - `key`: of the content that the table is made of: no two contents may have the same.
    - `batches`: is not started where the table is there.
    """
    path = _folder() / f"{digest(key, str(schema))}.arrow"  # the key of another version's, too
    try:
        return _mapped(path)
    except (OSError, pa.ArrowInvalid):  # not there, or cut short
        pass
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    except OSError as error:
        logger.warning("The index is not kept: %s. `EQX_CLIP_CACHE` names another folder.", error)
        return pa.Table.from_batches(batches, schema).columns
    try:
        with os.fdopen(handle, "wb") as stream, pa.ipc.new_file(stream, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise OSError(
                f"The index cannot be written to {path.parent}: {error}. `EQX_CLIP_CACHE` names "
                "another folder."
            ) from error
        raise
    return _mapped(path)


def _folder() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eqx_clip"
    return Path(os.environ.get("EQX_CLIP_CACHE") or default)


def _mapped(path: Path) -> Columns:
    with pa.memory_map(os.fspath(path)) as source:
        return pa.ipc.open_file(source).read_all().columns
