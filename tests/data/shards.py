"""Writers of small shards, good and damaged."""

import io
import tarfile

from tensorflow_datasets.proto import tf_example_pb2

from eqx_clip.data._write import framed


def record(**features):
    """A serialised `tf.train.Example`: bytes, lists of bytes, integers and floats by name."""
    example = tf_example_pb2.Example()
    for name, value in features.items():
        feature = example.features.feature[name]
        if isinstance(value, list):
            feature.bytes_list.value.extend(value)
        elif isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            feature.float_list.value.append(value)
    return example.SerializeToString()


def tfrecord(*records):
    return b"".join(map(framed, records))


def tar(*members, form=tarfile.PAX_FORMAT):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def samples(start, stop):
    return [
        member
        for i in range(start, stop)
        for member in (
            (f"{i:05}.json", b"{}"),
            (f"{i:05}.jpg", f"image {i}".encode()),
            (f"{i:05}.txt", f"text {i}".encode()),
        )
    ]
