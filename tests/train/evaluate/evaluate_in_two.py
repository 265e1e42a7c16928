"""One of two processes that validate together: `test_two_processes_get_the_numbers_of_one`."""

import json
import sys

import jax
import numpy as np
from helpers import tiny
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from test_validate import eval_step, image_means, random_batches

from eqx_clip import train
from eqx_clip.data import open_classes


def main(port: str, process: int, folder: str) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    by_rows = NamedSharding(mesh, PartitionSpec("data"))

    def spread(leaf):
        """Over the devices of both processes where it can be, as fsdp does."""
        whole = NamedSharding(mesh, PartitionSpec())
        sharding = by_rows if leaf.ndim and leaf.shape[0] % 4 == 0 else whole
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    def sharded_step(model, batch):
        arrays = {
            name: jax.make_array_from_process_local_data(by_rows, rows)
            for name, rows in batch.items()
        }
        return eval_step(model, arrays)

    model = tiny()
    everywhere = jax.tree.map(spread, model)
    mine = slice(2 * process, 2 * process + 2)
    results = {}
    for last in (3, 1):
        parts = [
            {name: rows[mine] for name, rows in batch.items()}
            for batch in random_batches(model, [4, last])
        ]
        results[last] = train.validate(sharded_step, everywhere, parts, batch_size=4)
    found = open_classes(folder)
    here = train.on_one_device(everywhere)
    classifier = image_means(here, found)[[0, 2, 1]]
    results["accuracy"] = train.zero_shot_accuracy(here, found.images, found.labels, classifier)
    print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
