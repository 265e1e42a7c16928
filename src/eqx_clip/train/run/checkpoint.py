"""Checkpoints of a training run, by Orbax."""

import functools
import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from ..._checks import as_count
from ..._types import Count, PathLike
from .facts import as_json, differences, flattened
from .leaves import Named, checksums, described, named_leaves, restored, skeleton, written


if TYPE_CHECKING:
    from .orbax import Folder, Manager

logger = logging.getLogger("eqx_clip.train")

_SHOWN = 5  # differences that an error names


class Checkpointer:
    """The newest checkpoints of a run in a folder, local or `gs://`, written in the background.

    ```python
    with Checkpointer(folder, config={"model": model_config, "seed": 0}) as checkpointer:
        if checkpointer.latest() is not None:
            state = checkpointer.restore(state)
        ...
        checkpointer.save(step, state)
    ```

    A checkpoint holds the arrays of a tree, typed PRNG keys among them, and JSON beside them: the
    `config`, each leaf's path, dtype and shape, and a checksum. It gets its name when it is whole,
    so that a killed process leaves the last good one. With many processes the folder must be one
    that all share, and all must make the same calls.

    **Arguments:**

    - `folder`: made by the first save.
    - `config`: what has to be equal for a checkpoint to be continued, as JSON values and
      dataclasses: the model's configuration, the optimizer's, and what decides the order of
      examples, such as seed and batch size.
    - `keep`: the newest so many are kept.

    A save that fails, of a full disk for example, is logged as an error when the next one begins;
    training goes on, and the next one tries again. `wait()`, `close()` and leaving the `with` block
    raise it if no later one succeeded, so that a run does not end well without its last state.
    """

    def __init__(
        self, folder: PathLike, *, config: Mapping[str, Any] | None = None, keep: Count = 5
    ) -> None:
        folder = os.fspath(folder)
        self.folder = folder if "://" in folder else os.path.abspath(folder)
        self.keep = as_count("keep", keep)
        self.config = as_json(config or {})
        self._manager: Manager | None = None
        self._step: int | None = None  # the newest that this object saved or restored
        self._good: int | None = None  # the newest that this object knows to be complete
        self._error: Exception | None = None

    @functools.cached_property
    def _disk(self) -> "Folder":
        try:
            from .orbax import Folder
        except ImportError as error:
            raise ImportError(
                f"Checkpoints need Orbax ({error}): pip install 'eqx_clip[train]'"
            ) from error
        return Folder(self.folder)

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, or None. The same on all processes."""
        steps = self._disk.steps()
        newest = steps[-1] if steps else -1
        if jax.process_count() > 1:  # a network file system may show them different listings
            newest = int(multihost_utils.broadcast_one_to_all(np.int32(newest)))
        return None if newest < 0 else newest

    def save(self, step: int, state: PyTree) -> None:
        """Begins to save `state` as that of `step`; it may be donated at once.

        Waits for the save before. Does nothing if this object has saved or restored that very step.
        Raises `ValueError` for a leaf that is no array, where the folder holds a later checkpoint,
        which is of another history, and where processes do not share the folder; `OSError` where
        the folder cannot be made. `prepare` finds the last three before training.
        """
        if step == self._step:
            return
        leaves = named_leaves(state)
        self._finish()
        manager = self._writer(step)
        arrays = written(leaves)
        try:
            manager.write(step, arrays, self._about(leaves, arrays))
        except OSError as error:
            self._failed(step, error)
        else:
            self._step = step

    def prepare(self, step: int) -> None:
        """Makes the folder, for a run that goes on from `step`, 0 if it is new. Writes no arrays.

        Raises what `save` would after the steps of an epoch: `ValueError` where the folder holds a
        checkpoint later than `step` and where processes do not share it, `OSError` where it cannot
        be made.
        """
        self._writer(step + 1)

    def _writer(self, step: int) -> "Manager":
        """What writes a checkpoint of `step`, or of a later one."""
        manager = self._manager = self._manager or self._disk.writer(self.keep)
        there = manager.latest_step()
        if there is not None and there >= step:
            raise ValueError(
                f"{self.folder} holds a checkpoint of step {there}; saving step {step} would mix "
                "two histories. Save into another folder, remove the later checkpoints, or "
                "continue from the latest: `restore`, or --resume-from-checkpoint latest."
            )
        return manager

    def _about(self, leaves: Named, arrays: Named) -> dict[str, Any]:
        return {
            "config": self.config,
            "leaves": described(leaves),
            "checksums": checksums(arrays),
        }

    def _finish(self) -> None:
        """Waits for the save in the background. Its failure is logged and kept."""
        if self._manager is None or self._step is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # TensorStore's errors are of many types
            self._failed(self._step, error)
        else:
            self._good, self._error = self._step, None

    def _failed(self, step: int, error: Exception) -> None:
        """Closes the writer: a new one removes what is half-written, and so makes room."""
        logger.error(
            "The checkpoint of step %d was not saved in %s: %s. Training goes on, and the next "
            "save tries again. %s",
            step,
            self.folder,
            error,
            self._last_good(),
        )
        self._error, self._step = error, self._good
        if self._manager is not None:
            self._manager.abandon()
            self._manager = None

    def _last_good(self) -> str:
        if self._good is None:
            return "There is no good one yet."
        return f"The last good one is of step {self._good}."

    def wait(self) -> None:
        """Returns when the last save is complete. Raises `RuntimeError` if it failed."""
        self._finish()
        if self._error is not None:
            raise RuntimeError(
                f"The last checkpoint was not saved in {self.folder}: {self._error}. "
                f"{self._last_good()} Make room, or save elsewhere."
            ) from self._error

    def close(self) -> None:
        """Waits as `wait` does, and lets go of the folder."""
        try:
            self.wait()
        finally:
            if self._manager is not None:
                self._manager.close()
                self._manager = None

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self.close()
        except RuntimeError:  # logged already; the error that is under way says more
            if error is None:
                raise

    def restore(self, like: PyTree, step: int | None = None) -> PyTree:
        """The state of a checkpoint, bit for bit, in the structure and on the devices of `like`.

        `like` holds arrays, or `jax.ShapeDtypeStruct`s with shardings, which may be of other
        devices, processes and meshes than the checkpoint was written from. `step` is by default
        the latest. Its values are compared with their checksums.

        Raises `FileNotFoundError` where there is no complete checkpoint, and says what there is;
        `ValueError` for one of another model, optimizer or `config`, with the first differences,
        and for one that is damaged.
        """
        step = self._existing(step)
        leaves = named_leaves(like)
        about = self._read(step, lambda: self._disk.read_about(step))
        self._check_same(step, about, leaves)
        shapes = {name: skeleton(name, leaf) for name, leaf in leaves.items()}
        stored = {name: leaf for name, leaf in shapes.items() if leaf.size}
        arrays = self._read(step, lambda: self._disk.read_arrays(step, stored))
        self._check_sums(step, about, arrays)
        self._step = self._good = step
        return jax.tree.unflatten(
            jax.tree.structure(like),
            [restored(leaf, arrays.get(name), shapes[name]) for name, leaf in leaves.items()],
        )

    def saved_config(self, step: int | None = None) -> dict[str, Any]:
        """The `config` of a checkpoint, by default the latest, as JSON values. Raises as `restore`
        does, but for no other run."""
        step = self._existing(step)
        return self._read(step, lambda: self._disk.read_about(step))["config"]

    def _existing(self, step: int | None) -> int:
        steps, unfinished = self._disk.steps(), self._disk.unfinished()
        half_written = [name for name in unfinished if name.partition(".")[0].isdigit()]
        if half_written and steps:
            logger.warning("%s: not complete, and ignored: %s", self.folder, half_written)
        chosen = self.latest() if step is None else step
        if not steps or chosen is None:
            raise FileNotFoundError(
                f"{self.folder} holds no complete checkpoint. In it: {unfinished or 'nothing'}. "
                "Names that end in .orbax-checkpoint-tmp are half-written. Name a folder with a "
                "complete one, or begin anew."
            )
        if chosen not in steps:
            raise FileNotFoundError(
                f"{self.folder} holds no complete checkpoint of step {chosen}; it holds those of "
                f"{steps}."
            )
        return chosen

    def _read(self, step: int, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return read()
        except Exception as error:  # Orbax's and TensorStore's errors are of many types
            raise ValueError(self._damaged(step, str(error))) from error

    def _damaged(self, step: int, reason: str) -> str:
        others = [other for other in self._disk.steps() if other != step]
        return (
            f"The checkpoint of step {step} in {self.folder} cannot be read: {reason}. Others "
            f"there are of steps {others}: `restore(like, step=...)` takes one of them. Remove the "
            "damaged one before training goes on."
        )

    def _check_same(self, step: int, about: Mapping[str, Any], leaves: Named) -> None:
        wrong = differences(
            flattened(about["config"], "config."), flattened(self.config, "config.")
        )
        wrong += differences(about["leaves"], described(leaves))
        if wrong:
            more = f"\n  and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            raise ValueError(
                f"The checkpoint of step {step} in {self.folder} is of another run:\n  "
                + "\n  ".join(wrong[:_SHOWN])
                + f"{more}\nTake the model, the optimizer and the options that it was saved with, "
                "or another folder."
            )

    def _check_sums(self, step: int, about: Mapping[str, Any], arrays: Named) -> None:
        sums = checksums(arrays)
        wrong = [name for name, value in sums.items() if about["checksums"].get(name) != value]
        if wrong:
            problem = f"the values of {wrong[:_SHOWN]} are not those that were saved"
            raise ValueError(self._damaged(step, problem))
