"""The options of a section of OpenCLIP's configuration, taken one by one."""

from collections.abc import Mapping
from typing import Any, TypeVar

from ..._checks import short_repr


ModelT = TypeVar("ModelT")

# Options of training, and options of an option that is off: they change no feature.
_WITHOUT_EFFECT = {
    *("patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads"),
    *("eos_id", "pad_id"),  # of another pooling, and of a class token that is not supported
    *("timm_model_pretrained", "timm_drop", "timm_drop_path"),
    *("hf_model_pretrained", "hf_proj_type", "hf_pooler_type"),
    *("output_dict", "nonscalar_logit_scale", "custom_text"),
}

# What all of OpenCLIP's transformers have, and are known here by one value alone, its default.
TRANSFORMER_DEFAULTS = {
    "ls_init_value": None,
    "norm_kwargs": None,
    "block_type": None,
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
}
# What OpenCLIP does not look at in towers that are not timm's.
TIMM_OPTIONS = ("timm_model_name", "timm_pool", "timm_proj", "timm_proj_bias")


class Options:
    """A section of a configuration, whose options are taken until none is left that matters."""

    def __init__(self, options: Mapping[str, Any], name: str):
        self._options, self.name = dict(options), name

    def take(self, key: str, default: Any) -> Any:
        """An option, or OpenCLIP's default where it is not given."""
        return self._options.pop(key, default)

    def take_size(self, key: str, default: int) -> Any:
        """A number of pixels, or (height, width); JSON has lists for pairs."""
        size = self.take(key, default)
        return tuple(size) if isinstance(size, list) else size

    def take_timm_model(self, models: Mapping[str, ModelT]) -> ModelT:
        """Which of these models of timm's is named. `ValueError` for another."""
        name = self.take("timm_model_name", None)
        known = name.partition(".")[0]  # behind the dot is timm's name of the weights
        if known not in models:
            raise ValueError(
                f"`timm_model_name={short_repr(name)}` is not supported; supported: "
                f"{', '.join(models)}."
            )
        return models[known]

    def take_flag(self, key: str) -> bool:
        """A switch that is off by default. `ValueError` for anything but true, false and null."""
        flag = self.take(key, None)
        if flag not in (None, False, True):
            raise ValueError(
                f"`{key}` in `{self.name}` must be true or false; got {short_repr(flag)}."
            )
        return bool(flag)

    def leave_aside(self, *keys: str) -> None:
        """Drops options that OpenCLIP does not look at for such a tower."""
        for key in keys:
            self._options.pop(key, None)

    def refuse_others(self, defaults: Mapping[str, Any]) -> None:
        """A `ValueError` for an option, of those left, that would change the numbers.

        `defaults` are options that are known by one value alone; None, false, zero and an empty
        text are one value to OpenCLIP, too.
        """
        for key, value in self._options.items():
            if key in _WITHOUT_EFFECT:
                continue
            if key in defaults and (value == defaults[key] or not (value or defaults[key])):
                continue
            problem = "is not supported" if key in defaults else "is not known"
            raise ValueError(f"`{key:.80}={short_repr(value)}` in `{self.name}` {problem}.")


def section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A section of a configuration. `ValueError` if it is missing or no object of options."""
    options = required(config, name, "the configuration")
    if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
        raise ValueError(f"`{name}` must be an object of options; it is {short_repr(options)}.")
    return dict(options)


def required(config: Mapping[str, Any], key: str, where: str) -> Any:
    """An option that must be there, or a `ValueError`."""
    if key not in config:
        raise ValueError(
            f"{where} has no {key!r}; expected OpenCLIP's format, with `embed_dim`, `vision_cfg` "
            f"and `text_cfg`. It has: {short_repr(list(config)) if config else 'nothing'}."
        )
    return config[key]
