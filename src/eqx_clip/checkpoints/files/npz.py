"""An npz file, NumPy's zip archive of arrays, as a mapping of arrays."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from ..._checks import short_repr


# No deflated byte stands for more: a member that claims to is damaged, or made to fill the memory.
_MOST_INFLATED = 1032
_SUFFIX = ".npy"
_DTYPES = {np.dtype("V2"): np.dtype(ml_dtypes.bfloat16)}  # as which NumPy writes it
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What zipfile raises for archives that are damaged, cut short, encrypted or packed otherwise.
_DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


class NpzFile(Mapping[str, np.ndarray]):
    """The arrays of an `.npz` file by name, as `numpy.savez` and `numpy.savez_compressed` write it.

    To be used in a `with` block. Opening reads the archive's directory and the arrays' headers; an
    array is read, and its checksum compared, when it is asked for. Two bytes of no type of NumPy's
    are bfloat16, as JAX's arrays are written. Raises `ValueError` for a file that is cut short or
    damaged, for pickled objects, which are never run, and for members that are no arrays.
    """

    metadata: Mapping[str, str] = {}
    note, kind = "", "npz"

    def __init__(self, path: Path):
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except _DAMAGES as error:
            raise self._broken(error) from None
        try:
            self._arrays = dict(map(self._header, self._zip.infolist()))
        except BaseException:
            self._zip.close()
            raise
        if len(self._arrays) != len(self._zip.infolist()):
            raise self._broken("it holds a name twice")

    def _header(self, member: zipfile.ZipInfo) -> tuple[str, tuple[tuple[int, ...], np.dtype]]:
        """The name of a member, and the shape and dtype of the array in it, whose size is right."""
        name = member.filename
        if not name.endswith(_SUFFIX):
            raise self._broken(f"its member {short_repr(name)} is no array")
        try:
            with self._zip.open(member) as file:
                shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
                size = file.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
        except (*_DAMAGES, ValueError, KeyError) as error:
            raise self._broken(
                f"the header of {short_repr(name)} cannot be read: {error}"
            ) from None
        if dtype.hasobject:
            raise ValueError(
                f"{self._path} holds pickled objects, {short_repr(name)}, which are never run: "
                "write plain arrays by `numpy.savez(path, **arrays)`."
            )
        if size != member.file_size or size > 64 + _MOST_INFLATED * member.compress_size:
            raise self._broken(f"{short_repr(name)} is not as large as its header says")
        return name.removesuffix(_SUFFIX), (shape, _DTYPES.get(dtype, dtype))

    def _broken(self, problem: object) -> ValueError:
        return ValueError(
            f"{self._path} is not a whole npz file: {problem}. It holds "
            f"{self._path.stat().st_size:,} bytes; delete it and fetch it again."
        )

    def __enter__(self) -> "NpzFile":
        return self

    def __exit__(self, *exception) -> None:
        self._zip.close()

    def __getitem__(self, key: str) -> np.ndarray:
        _, dtype = self._arrays[key]
        try:
            with self._zip.open(key + _SUFFIX) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except (*_DAMAGES, ValueError) as error:
            raise self._broken(f"{short_repr(key)} cannot be read: {error}") from None
        return array.view(dtype)

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of an array, which is not read for it."""
        return self._arrays[key][0]

    def dtype(self, key: str) -> str:
        """The type of a tensor's numbers."""
        return self._arrays[key][1].name

    def __contains__(self, key: object) -> bool:
        return key in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)
