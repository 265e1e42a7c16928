"""What a pickle of torch's says, by an interpreter that imports nothing and calls nothing.

A pickle is a program for a small stack machine. Its values here are dictionaries, lists, tuples,
strings and numbers, and four inert records: `Tensor`, `Storage`, `Module` (of TorchScript) and
`Inert`, which stands for everything else and only has its name. Whatever a program asks for can
at most become such a record.
"""

import dataclasses
import struct
from collections.abc import Callable
from typing import Any


# A training checkpoint of a thousand parameters takes some 150,000 steps. A step makes one small
# object, so that these many take some hundred megabytes at most.
MOST_STEPS = 3_000_000
_LONGEST_NAME = 200  # of anything that is asked for: modules and classes
_MOST_DIMS = 32


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Inert:
    """A name that the pickle asks for, and whatever would be made by it."""

    name: str


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """The numbers of one or more tensors: `kind` as torch names it, `key` the member's name."""

    kind: str
    key: str
    count: int


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """A view of a storage; `offset` and `strides` count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(eq=False, slots=True)
class Module:
    """An object of a TorchScript class, which is a dictionary of attributes here."""

    name: str
    attributes: dict[Any, Any]


def interpret(data: bytes) -> Any:
    """What the pickle leaves on its stack. `ValueError` for one that is damaged, or too long."""
    return _Machine(data).run()


class _Machine:
    def __init__(self, data: bytes):
        self._data, self._at = data, 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MOST_STEPS):
            code = self.take(1)
            if code == b".":
                return self.pop()
            step = _STEPS.get(code)
            if step is None:
                raise self.broken(f"{code!r} is no opcode that torch writes")
            step(self)
        raise ValueError(
            f"its pickle has more than {MOST_STEPS:,} steps: write the weights alone, without the "
            "rest of a training checkpoint"
        )

    def broken(self, problem: str) -> ValueError:
        where = f"at byte {self._at:,} of its pickle"
        return ValueError(f"{problem}, {where}: the file is damaged, fetch it again")

    def take(self, size: int) -> bytes:
        """The next bytes; no more than there are, whatever the pickle says."""
        end = self._at + size
        if end > len(self._data):
            raise self.broken("it ends early")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def skip(self, form: str) -> None:
        """Bytes that no state dict needs."""
        size = self.number(form)
        if size > len(self._data) - self._at:
            raise self.broken("it ends early")
        self._at += size
        self.push(Inert("bytes"))

    def line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + _LONGEST_NAME)
        if end < 0:
            raise self.broken("a name has no end")
        return self.take(end + 1 - self._at)[:-1].decode()

    def text(self, form: str) -> None:
        self.push(self.take(self.number(form)).decode("utf-8", "surrogatepass"))

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        self.top()
        return self._stack.pop()

    def top(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise self.broken("its stack is empty")
        return self._stack[-1]

    def mark(self) -> None:
        self._marks.append(len(self._stack))

    def since_mark(self) -> list[Any]:
        if not self._marks:
            raise self.broken("there is no mark")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def tuple_of(self, count: int) -> None:
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def memoize(self, index: int) -> None:
        self._memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self._memo:
            raise self.broken("it recalls what it has not seen")
        self.push(self._memo[index])

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Inert):
            raise self.broken(f"a {type(target).__name__} is no list")

    def set_items(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, dict) and len(values) % 2 == 0:
            target.update((_key(key), x) for key, x in zip(values[::2], values[1::2], strict=True))
        elif not isinstance(target, Inert):
            raise self.broken(f"a {type(target).__name__} takes no items")

    def find(self, module: Any, name: Any) -> None:
        for part in (module, name):  # which may be long, and asked for again and again
            if not isinstance(part, str) or len(part) > _LONGEST_NAME:
                raise self.broken("a name is no text, or a long one")
        self.push(Inert(f"{module}.{name}"))

    def replace_by(self, name: str) -> None:
        """What no state dict needs, in the place of the values since the mark."""
        self.since_mark()
        self.push(Inert(name))

    def reduce(self, *, is_new: bool = False) -> None:
        arguments, function = self.pop(), self.pop()
        if not (isinstance(function, Inert) and isinstance(arguments, tuple)):
            raise self.broken("what it calls has no name")
        if is_new and function.name.startswith("__torch__."):
            self.push(Module(function.name, {}))
            return
        known = _KNOWN.get(function.name)
        self.push(Inert(function.name) if known is None else known(function.name, arguments))

    def new_with_names(self) -> None:
        self.pop()
        self.reduce(is_new=True)

    def build(self) -> None:
        """Sets an object's state: of a module its attributes; nobody asks for any other's."""
        state, target = self.pop(), self.top()
        if isinstance(target, Module) and isinstance(state, dict):
            target.attributes = state

    def storage(self) -> None:
        match self.pop():
            case ("storage", Inert(kind), str(key), _, int(count)) if count >= 0:
                self.push(Storage(kind, key, count))
            case _:
                raise self.broken("a persistent id is none of a storage")


def _key(key: Any) -> Any:
    """A key of a dictionary as it is if that takes no time: no tuple of tuples, no huge number."""
    plain = key is None or isinstance(key, str | Inert)
    return key if plain or (isinstance(key, int) and abs(key) < 2**32) else Inert("key")


def _dictionary(name: str, arguments: tuple[Any, ...]) -> Any:
    return Inert(name) if arguments else {}


def _first(name: str, arguments: tuple[Any, ...]) -> Any:
    return arguments[0] if arguments else Inert(name)


def _tensor(name: str, arguments: tuple[Any, ...]) -> Any:
    match arguments:
        # after the hooks come the bits of lazy conjugates and negatives, which are not read
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), _, _):
            if len(shape) == len(strides) <= _MOST_DIMS and all(
                type(number) is int and 0 <= number < 2**63 for number in (offset, *shape, *strides)
            ):
                return Tensor(storage, offset, shape, strides)
    return Inert(name)


_KNOWN: dict[str, Callable[[str, tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _dictionary,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    **dict.fromkeys(
        (
            f"torch.jit._pickle.{name}"
            for name in (
                *("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist"),
                "restore_type_tag",
            )
        ),
        _first,
    ),
}

_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": lambda self: None if self.number("B") <= 5 else _refuse_protocol(self),
    b"\x95": lambda self: self.number("<Q"),  # a frame's size
    b"(": _Machine.mark,
    b"0": lambda self: self.pop(),
    b"2": lambda self: self.push(self.top()),
    b"N": lambda self: self.push(None),
    b"\x88": lambda self: self.push(True),
    b"\x89": lambda self: self.push(False),
    b"J": lambda self: self.push(self.number("<i")),
    b"K": lambda self: self.push(self.number("<B")),
    b"M": lambda self: self.push(self.number("<H")),
    b"\x8a": lambda self: self.push(
        int.from_bytes(self.take(self.number("B")), "little", signed=True)
    ),
    b"G": lambda self: self.push(self.number(">d")),
    b"X": lambda self: self.text("<I"),
    b"\x8c": lambda self: self.text("<B"),
    b"\x8d": lambda self: self.text("<Q"),
    b"U": lambda self: self.skip("<B"),
    b"T": lambda self: self.skip("<I"),
    b"C": lambda self: self.skip("<B"),
    b"B": lambda self: self.skip("<I"),
    b"\x8e": lambda self: self.skip("<Q"),
    b"\x96": lambda self: self.skip("<Q"),
    b")": lambda self: self.push(()),
    b"t": lambda self: self.push(tuple(self.since_mark())),
    b"\x85": lambda self: self.tuple_of(1),
    b"\x86": lambda self: self.tuple_of(2),
    b"\x87": lambda self: self.tuple_of(3),
    b"]": lambda self: self.push([]),
    b"a": lambda self: self.extend([self.pop()]),
    b"e": lambda self: self.extend(self.since_mark()),
    b"}": lambda self: self.push({}),
    b"s": lambda self: self.set_items([self.pop(), self.pop()][::-1]),
    b"u": lambda self: self.set_items(self.since_mark()),
    b"\x8f": lambda self: self.push(Inert("set")),
    b"\x90": lambda self: self.extend(self.since_mark()),
    b"\x91": lambda self: self.replace_by("frozenset"),
    b"c": lambda self: self.find(self.line(), self.line()),
    b"\x93": lambda self: self.find(*[self.pop(), self.pop()][::-1]),
    b"R": lambda self: self.reduce(),
    b"\x81": lambda self: self.reduce(is_new=True),
    b"\x92": _Machine.new_with_names,
    b"b": _Machine.build,
    b"Q": _Machine.storage,
    b"h": lambda self: self.get(self.number("<B")),
    b"j": lambda self: self.get(self.number("<I")),
    b"q": lambda self: self.memoize(self.number("<B")),
    b"r": lambda self: self.memoize(self.number("<I")),
    b"\x94": lambda self: self.memoize(len(self._memo)),
}


def _refuse_protocol(machine: _Machine) -> None:
    raise machine.broken("a protocol of later than 5")
