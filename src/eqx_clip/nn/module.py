"""The base of the modules whose methods people hand to JAX."""

import equinox as eqx


class Module(eqx.Module):
    """An Equinox module that names what takes its methods, where JAX asks for their hash."""

    def __hash__(self) -> int:
        try:
            return super().__hash__()
        except TypeError as error:
            raise TypeError(
                f"A {type(self).__name__} holds arrays, so JAX cannot hash it or its methods. "
                "Equinox's transformations take them: `eqx.filter_jit(model.encode_image)` for "
                "`jax.jit`, `eqx.filter_checkpoint(...)` for `jax.checkpoint`, `eqx.filter_pmap` "
                "for `jax.pmap`. Others take a function: `lambda x: model.encode_image(x)`."
            ) from error
