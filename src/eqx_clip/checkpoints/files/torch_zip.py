"""A file of torch's, a zip archive, as a mapping of arrays; its pickle is read and not run."""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from ..._checks import short_repr
from .safetensors import MAPPED
from .torch_parts import state_dict_of
from .torch_pickle import Tensor, interpret
from .zip_members import Member, locate, read_members


_DTYPES = {
    f"torch.{kind}Storage": np.dtype(dtype)
    for kind, dtype in {
        "Double": np.float64,
        "Float": np.float32,
        "Half": np.float16,
        "BFloat16": ml_dtypes.bfloat16,
        "Long": np.int64,
        "Int": np.int32,
        "Short": np.int16,
        "Char": np.int8,
        "Byte": np.uint8,
        "Bool": np.bool_,
    }.items()
}
_LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
_SAVE_AGAIN = (
    "Where torch is, write it again: "
    "`torch.save(torch.load(path, map_location='cpu', weights_only=True), new_path)`."
)


class TorchFile(Mapping[str, np.ndarray]):
    """The tensors of a memory-mapped `.pt`, `.pth`, `.ckpt` or `.bin` of torch's, from 1.6 on.

    To be used in a `with` block. The file is torch.save's, of a state dict or of a training
    checkpoint with one in it, or a TorchScript archive, whose modules' attributes are joined by
    dots. Its pickle is interpreted, not run: nothing is imported, nothing is called, and whatever
    it asks for beyond plain tensors is an inert name. Such a name may stand anywhere in a training
    checkpoint, where it is passed over with optimizer states and arguments, and nowhere in the
    state dict that is read, nor as the whole. `part`: the key of the state dict in the file, such
    as that of a moving average; by default `state_dict`, `model_state_dict` or `model` where there
    is one, else the whole; `note` has a word on moving averages beside it. Numbers and texts beside
    tensors are passed over.

    Arrays are views of the file and cannot be written to; nothing is read before one is asked for.
    Every place that the file names is checked when it is opened. Raises `ValueError` for a file
    that is cut short or damaged, for a whole model object, for other types than floats, integers
    and bool, for compressed or encrypted archives and for those of big-endian machines, each with
    what to do; `OSError` for what cannot be read.
    """

    kind = "zip archive of torch's, whose pickle is not run"
    metadata: Mapping[str, str] = {}

    def __init__(self, path: Path, part: str | None = None):
        self._path, self._mapped = path, 0
        self._data: mmap.mmap | None = self._open()
        self._size = len(self._data)
        try:
            self._tensors, self.note = self._read(self._data, part)
            self._starts = self._check(self._data)
        except ValueError as error:
            raise ValueError(f"{path} is not read: {str(error).rstrip('.')}.") from None

    def _open(self) -> mmap.mmap:
        with open(self._path, "rb") as file:
            start = file.read(len(_LEGACY))
            if start == _LEGACY:
                raise ValueError(f"{self._path} is in torch's format before 1.6. {_SAVE_AGAIN}")
            if start[:4] != b"PK\3\4":
                file.seek(257)
                kind = (
                    "torch's first format, a tar"
                    if file.read(5) == b"ustar"
                    else "of no known kind"
                )
                kind = "a bare pickle, which is never run" if start[:1] == b"\x80" else kind
                raise ValueError(
                    f"{self._path} is not the zip archive that torch.save writes: it is {kind}. "
                    f"{_SAVE_AGAIN}"
                )
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _read(self, data: mmap.mmap, part: str | None) -> tuple[dict[str, Tensor], str]:
        self._members = read_members(data)
        pickles = [x for x in self._members if x == "data.pkl" or x.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(
                f"it is a zip archive with {len(pickles)} `data.pkl`, and torch writes one"
            )
        self._folder = pickles[0].removesuffix("data.pkl")
        order = self._bytes(data, f"{self._folder}byteorder", b"little")
        if order.strip() != b"little":
            raise ValueError(
                f"it was written on a machine of another byte order, {order[:20]!r}. {_SAVE_AGAIN}"
            )
        pickle = self._bytes(data, pickles[0])
        return state_dict_of(interpret(pickle), part, len(pickle))

    def _bytes(self, data: mmap.mmap, name: str, default: bytes = b"") -> bytes:
        if name not in self._members:
            return default
        start = locate(data, name, self._members[name])
        return data[start : start + self._members[name].size]

    def _check(self, data: mmap.mmap) -> dict[str, int]:
        """Where the storages of the tensors start, by their keys, once all lie within the file."""
        starts: dict[str, int] = {}
        for name, tensor in self._tensors.items():
            try:
                dtype, storage = _dtype(tensor), tensor.storage
                key = f"{self._folder}data/{storage.key}"
                member = self._members.get(key)
                if member is None:
                    raise ValueError(f"its numbers, {short_repr(key)}, are missing")
                if storage.key not in starts:
                    starts[storage.key] = locate(data, key, member)
                _check_view(tensor, dtype.itemsize, member, len(data))
            except ValueError as error:
                raise ValueError(f"tensor {short_repr(name)}: {error}") from None
        return starts

    def __enter__(self) -> "TorchFile":
        return self

    def __exit__(self, *exception) -> None:
        self._data = None  # arrays that are in use keep the file mapped

    def __getitem__(self, key: str) -> np.ndarray:
        tensor = self._tensors[key]
        if self._data is None or self._mapped > MAPPED:
            self._data, self._mapped = None, 0
            self._data = self._open()
            if len(self._data) != self._size:
                raise ValueError(f"{self._path} was replaced while it was read: load it again.")
        dtype = _dtype(tensor)
        start = self._starts[tensor.storage.key] + tensor.offset * dtype.itemsize
        if 0 in tensor.shape:
            return np.zeros(tensor.shape, dtype)
        # an axis of one element may have any stride
        pairs = zip(tensor.shape, tensor.strides, strict=True)
        strides = tuple(dtype.itemsize * stride if size > 1 else 0 for size, stride in pairs)
        array: np.ndarray = np.ndarray(tensor.shape, dtype, self._data, start, strides)
        self._mapped += array.nbytes
        # NumPy's bool is 0 or 1, which bytes of a file need not be
        return np.asarray(array.view(np.uint8) != 0) if dtype == np.bool_ else array

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor, which is not read for it."""
        return self._tensors[key].shape

    def dtype(self, key: str) -> str:
        """The type of a tensor's numbers."""
        return _dtype(self._tensors[key]).name

    def __contains__(self, key: object) -> bool:
        return key in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _dtype(tensor: Tensor) -> np.dtype:
    kind = tensor.storage.kind
    if kind not in _DTYPES:
        raise ValueError(
            f"it is of {kind!r}, which is not supported: convert it to float16, bfloat16 or float32"
        )
    return _DTYPES[kind]


def _check_view(tensor: Tensor, itemsize: int, member: Member, file_size: int) -> None:
    """`ValueError` unless the elements of a tensor lie in its storage, and that in its member."""
    storage = tensor.storage
    if storage.count * itemsize > member.size:
        raise ValueError(
            f"its storage has {storage.count:,} elements, and its member {member.size:,} bytes: "
            "the file is damaged, fetch it again"
        )
    pairs = zip(tensor.shape, tensor.strides, strict=True)
    last = (
        -1
        if 0 in tensor.shape
        else tensor.offset + sum((size - 1) * stride for size, stride in pairs)
    )
    if last >= storage.count:
        raise ValueError(
            f"it reaches to element {last:,} of a storage that has {storage.count:,}: the file is "
            "damaged, fetch it again"
        )
    # a stride of 0 repeats elements: a small file could ask for any amount of memory
    count = 1
    for size in tensor.shape:
        count *= max(1, size)
        if count * itemsize > file_size:
            raise ValueError(
                f"its shape {short_repr(tensor.shape)} has more elements than the file. "
                "`tensor.clone()` before saving stores an expanded tensor whole"
            )
