"""How many floating-point operations a function takes, counted in the program that JAX traces.

Counted are the products of matrices and the convolutions, two operations a multiplication with its addition, as the papers
count a model: [m, k] times [k, n] is 2 m k n. A `lax.scan` counts as often as it runs, so that scanned layers are as many as
unrolled ones, where XLA's own analysis counts a loop's body once; what is recomputed in the backward pass counts again.
Left out is what is done element by element, a few per cent of a network's. A `while_loop`, whose length no program says,
counts once; of a `lax.cond` the dearest branch; a `shard_map`'s body for each of its devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax

__all__ = ["flops"]


def flops(fn: Callable[..., Any], *arguments: Any) -> int:
    """The operations of fn(*arguments), arrays or shapes (`jax.ShapeDtypeStruct`); nothing is computed."""
    return _of(jax.make_jaxpr(fn)(*arguments).jaxpr)


def _of(program: Any) -> int:
    return sum(_equation(equation) for equation in program.eqns)


def _equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    shapes = [getattr(value.aval, "shape", ()) for value in equation.invars]
    out = math.prod(getattr(equation.outvars[0].aval, "shape", ())) if equation.outvars else 0
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * out * math.prod(shapes[0][axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = shapes[1]
        taps = math.prod(kernel) // max(1, kernel[params["dimension_numbers"].rhs_spec[0]])
        # Zeros that are put between the inputs, as in a convolution's gradient, are not multiplied.
        return 2 * out * taps // math.prod(params["lhs_dilation"])
    inner = [_of(program) for program in _programs(params)]
    if name == "cond":
        return max(inner, default=0)
    return _times(name, params) * sum(inner)


def _times(name: str, params: dict[str, Any]) -> int:
    """How often the programs within an equation run."""
    if name == "scan":
        return int(params["length"])
    if name == "shard_map":
        sizes = params["mesh"].shape
        return math.prod(sizes[axis] for axis in params.get("manual_axes", sizes))
    return 1


def _programs(params: dict[str, Any]) -> Iterator[Any]:
    """The programs among an equation's parameters, alone or several."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            found = getattr(item, "jaxpr", item)  # a closed one holds it
            if hasattr(found, "eqns"):
                yield found
