"""Orbax as `Checkpointer` uses it. Imported when first needed: it takes a while."""

import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import LatestN


logger = logging.getLogger("eqx_clip.train")


class Folder:
    """What a folder holds."""

    def __init__(self, path: str) -> None:
        self._path = epath.Path(path)

    def steps(self) -> list[int]:
        """The steps of complete checkpoints, in order."""
        return sorted(ocp.utils.checkpoint_steps(self._path))

    def unfinished(self) -> list[str]:
        """Names that are no complete checkpoints, in order. An absent folder has none."""
        if not self._path.exists():
            return []
        complete = {str(step) for step in self.steps()}
        return sorted(child.name for child in self._path.iterdir() if child.name not in complete)

    def read_about(self, step: int) -> dict[str, Any]:
        """What was saved beside the arrays."""
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            return dict(reader.restore(self._item(step, "about"), args=ocp.args.JsonRestore()))

    def read_arrays(
        self, step: int, like: Mapping[str, jax.ShapeDtypeStruct]
    ) -> dict[str, jax.Array]:
        """The arrays, placed as `like` says."""
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            restore = ocp.args.StandardRestore(dict(like))
            return reader.restore(self._item(step, "arrays"), args=restore)

    def _item(self, step: int, name: str) -> epath.Path:
        path = self._path / str(step) / name
        if not path.exists():
            there = sorted(child.name for child in path.parent.iterdir())
            raise FileNotFoundError(f"it has no {name!r}, only {there}")
        return path

    def writer(self, keep: int) -> "Manager":
        return Manager(self._path, keep)


class Manager(ocp.CheckpointManager):
    """Writes a folder's checkpoints; removes at the start what earlier runs left half-written."""

    def __init__(self, folder: epath.Path, keep: int) -> None:
        options = ocp.CheckpointManagerOptions(
            preservation_policy=LatestN(keep), cleanup_tmp_directories=True
        )
        super().__init__(folder, options=options, item_names=("arrays", "about"))
        if jax.process_count() > 1 and "://" not in str(folder):
            _check_shared(folder)

    def reached_preemption(self, step: int) -> bool:
        """False: `Preemption` asks.

        Orbax would ask again, for earlier steps and from a thread; JAX takes each question for this
        process's position, and the processes could agree on a step that one of them has passed.
        """
        return False

    def write(self, step: int, arrays: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Copies the arrays off the devices, and writes them while the caller goes on."""
        items = ocp.args.Composite(
            arrays=ocp.args.StandardSave(dict(arrays)), about=ocp.args.JsonSave(dict(about))
        )
        self.save(step, args=items, force=True)

    def abandon(self) -> None:
        """Closes after an error, which Orbax may raise once more."""
        try:
            self.close()
        except Exception:
            logger.debug("Closing after an error.", exc_info=True)


def _check_shared(folder: epath.Path) -> None:
    """A `ValueError` on every process if some do not see what process 0 writes."""
    token = multihost_utils.broadcast_one_to_all(np.random.default_rng().integers(2**31))
    note = folder / f"shared-{int(token)}"
    if jax.process_index() == 0:
        note.touch()
    multihost_utils.sync_global_devices("eqx_clip: a note in the checkpoint folder")
    seen = multihost_utils.process_allgather(np.asarray(note.exists()))
    if jax.process_index() == 0:
        note.unlink()
    if not seen.all():
        raise ValueError(
            f"Processes {np.flatnonzero(~seen).tolist()} do not see what process 0 writes into "
            f"{folder}: every process writes its part of a checkpoint, so the folder must be one "
            "that all share, a network file system or gs://."
        )
