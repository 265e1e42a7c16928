"""Which state dict of a file of torch's is meant: wrappers, averages and TorchScript modules."""

from typing import Any

from ..._checks import short_repr
from .torch_pickle import Inert, Module, Tensor


# What training scripts call the weights, and their moving average.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
_DEEPEST = 64
_REMEDY = (
    "Where it can be loaded, write the weights alone: `torch.save(model.state_dict(), path)`, or "
    "by `safetensors.torch.save_file`."
)


def state_dict_of(root: Any, part: str | None, size: int) -> tuple[dict[str, Tensor], str]:
    """The tensors of the state dict `part`, or of the one that the wrappers' names say, and a word
    on moving averages, if there are any.

    `size`, in bytes, of the pickle: names of TorchScript's modules, which can be repeated without
    end, take a multiple of it at most. Raises `ValueError` for what is no state dict.
    """
    if part is not None:
        if not isinstance(root, dict) or not isinstance(root.get(part), dict | Module):
            raise ValueError(f"it has no state dict {part!r}; it has {_held(root)}")
        root = root[part]
    note = ""
    for _ in range(4):  # some wrap twice
        inner = next((name for name in _WRAPPERS if _is_part(root, name)), None)
        averages = [name for name in _AVERAGES if _is_part(root, name)]
        if inner is None and not averages:
            break
        if inner is not None and averages:
            note = (
                f"The file holds {inner!r} and its moving average, {averages[0]!r}; the first is "
                f"taken. The other: `load(..., part={averages[0]!r})`."
            )
        elif inner is None:
            note = f"The file holds only a moving average, {averages[0]!r}, which is taken."
        root = root[averages[0] if inner is None else inner]
    if isinstance(root, Module):
        return _attributes(root, 64 * size), note
    if isinstance(root, Inert):
        raise ValueError(
            f"it holds a whole object, {root.name!r}, which only its own library can build, and no "
            f"state dict. {_REMEDY}"
        )
    if not isinstance(root, dict):
        raise ValueError(f"it holds {_held(root)}, and no state dict. {_REMEDY}")
    return _checked(root), note


def _is_part(root: Any, name: str) -> bool:
    """Whether `name` wraps a state dict, and is no tensor's name."""
    return isinstance(root, dict) and isinstance(root.get(name), dict | Module | Inert)


def _checked(root: dict[Any, Any]) -> dict[str, Tensor]:
    tensors = {}
    for key, value in root.items():
        if isinstance(value, Tensor) and isinstance(key, str):
            tensors[key] = value
        elif isinstance(value, Inert):
            raise ValueError(
                f"the value of {short_repr(key)} asks for {value.name!r}, which is not run or "
                f"read here: only plain tensors are. {_REMEDY}"
            )
        elif not (isinstance(key, str) and isinstance(value, str | int | float | None)):
            raise ValueError(
                f"{short_repr(key)} is {_held(value)}, not a tensor: that is no state dict. It has "
                f"{_held(root)}. {_REMEDY}"
            )
    if not tensors:
        raise ValueError(f"it holds no tensors by their names; it has {_held(root)}. {_REMEDY}")
    return tensors


def _attributes(root: Module, most: int) -> dict[str, Tensor]:
    """The tensors of a TorchScript module and those in it, their paths joined by dots."""
    tensors: dict[str, Tensor] = {}
    todo, length = [("", root, 0)], 0
    while todo:
        prefix, module, depth = todo.pop()
        for name, value in module.attributes.items():
            if not isinstance(name, str) or not isinstance(value, Tensor | Module):
                continue
            # Modules may hold each other, in a circle or many times over.
            length += len(prefix) + len(name) + 1
            if length > most or depth > _DEEPEST:
                raise ValueError("its modules are nested without end")
            if isinstance(value, Tensor):
                tensors[f"{prefix}{name}"] = value
            else:
                todo.append((f"{prefix}{name}.", value, depth + 1))
    if not tensors:
        raise ValueError(f"the TorchScript module {root.name!r} holds no tensors")
    return tensors


def _held(value: Any) -> str:
    """A few words on a value, however large or deep it is."""
    if isinstance(value, dict):
        keys = [short_repr(key)[:60] for key, _ in zip(value, range(8), strict=False)]
        return f"a dictionary of {len(value):,}: {', '.join(keys)}"
    if isinstance(value, Tensor):
        return "a tensor without a name"
    return f"a {type(value).__name__}"
