"""flax.nnx modules as pure functions over plain nested dicts: the one place where the two meet.

A module is built once abstractly, split into structure and parameters, and from then on it is
`init(key) -> params` and `apply(params, *inputs, key=None, train=False)`. Plain dicts take JAX's fast C++ path through
`jax.jit`, and optax, orbax and the weight converters see nothing else.

A module's methods take `key` and `train` as keywords. Randomness inside a network (dropout) comes from `key` alone: no
module stores an `Rngs`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from diffusion_jax.typing import Array, Params

__all__ = ["Network", "Stack", "called", "functional"]


class Rngs(nnx.Rngs):
    """flax's Rngs, which gives the very same keys, for building a module within a trace.

    flax counts the keys it gave in a variable. Traced, each change of it looks for a sharding that a tracer has not, and JAX
    writes an error message over everything traced so far: time that grows with the square of a network's size.
    """

    def __init__(self, default: Array | int) -> None:
        super().__init__()
        self.default = _Stream(default, tag="default")


class _Stream(nnx.RngStream):
    """Counts by a Python number."""

    def __init__(self, key: Array | int, *, tag: str) -> None:
        super().__init__(key, tag=tag)
        self.given = 0

    def __call__(self) -> Array:
        key = jax.random.fold_in(self.key[...], self.given)
        self.given += 1
        return key


class Network:
    """A network as two functions. Hashable by identity, so that it may be closed over or be a static argument.

    `after_step` is what training does to the parameters after each step, None where it does nothing.
    """

    def __init__(
        self,
        constructor: Callable[[nnx.Rngs], nnx.Module],
        *,
        after_step: Callable[[Params], Params] | None = None,
    ) -> None:
        self._constructor, self.after_step = constructor, after_step
        abstract = nnx.eval_shape(lambda: constructor(Rngs(0)))
        self._graphdef, self._abstract = nnx.split(abstract)

    def init(self, key: Array) -> Params:
        """Fresh parameters, float32, as a plain nested dict with string keys."""
        state = nnx.state(self._constructor(Rngs(key)), nnx.Param)
        return _plain(nnx.to_pure_dict(state))

    def apply(self, params: Params, *inputs: Any, key: Array | None = None, train: bool = False) -> Any:
        """The module's `__call__` with these parameters."""
        return self._call("__call__", params, *inputs, key=key, train=train)

    @functools.cache  # noqa: B019 - a network lives as long as the program
    def method(self, name: str) -> Callable[..., Any]:
        """Another method of the module as a function with the signature of `apply`; the same object each time."""
        return functools.partial(self._call, name)

    def _call(self, name: str, params: Params, *inputs: Any, key: Array | None = None, train: bool = False) -> Any:
        module = nnx.merge(self._graphdef, _fill(self._abstract, params))
        return getattr(module, name)(*inputs, key=key, train=train)


def functional(constructor: Callable[[nnx.Rngs], nnx.Module]) -> tuple[Callable[..., Params], Callable[..., Any]]:
    """`(init, apply)` of the module that `constructor(rngs)` builds.

    init(key) -> params; apply(params, *inputs, key=None, train=False) -> the module's output.
    """
    network = Network(constructor)
    return network.init, network.apply


class Stack(nnx.Module):
    """`depth` layers of one kind with stacked parameters (leading axis `depth`), run by `lax.scan` or unrolled.

    Layer i is initialised from fold_in(key, i) and called with fold_in(key, i), so that both ways give the same
    numbers. The layer's signature is layer(x, *inputs, key, train) -> x.

    `remat` names a policy of `jax.checkpoint_policies` ("nothing_saveable", "dots_saveable", ...), or None for no
    rematerialisation.
    """

    def __init__(
        self,
        constructor: Callable[[nnx.Rngs], nnx.Module],
        depth: int,
        rngs: nnx.Rngs,
        *,
        scan: bool = False,
        remat: str | None = None,
    ) -> None:
        self.depth, self.scan, self.remat = depth, scan, remat
        graphdef, _ = nnx.split(nnx.eval_shape(lambda: constructor(Rngs(0))))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(rngs.params(), jax.numpy.arange(depth))
        stacked = jax.vmap(lambda key: nnx.state(constructor(Rngs(key)), nnx.Param))(keys)
        self.layers = nnx.merge(graphdef, stacked)

    def __call__(self, x: Array, *inputs: Any, key: Array | None = None, train: bool = False) -> Array:
        """x through every layer in turn; `inputs` go to each layer unchanged."""
        return self.last_two(x, *inputs, key=key, train=train)[0]

    def last_two(self, x: Array, *inputs: Any, key: Array | None = None, train: bool = False) -> tuple[Array, Array]:
        """(x after the last layer, x before it): the second is the penultimate layer's output."""
        layer, stacked = self._layer(inputs, key, train)
        if self.scan:
            indices = jax.numpy.arange(self.depth)
            return jax.lax.scan(lambda xs, inner: ((layer(xs[0], *inner), xs[0]), None), (x, x), (stacked, indices))[0]
        before = x
        for index, state in enumerate(_unstacked(stacked, self.depth)):
            before, x = x, layer(x, state, index)
        return x, before

    def states(self, x: Array, *inputs: Any, key: Array | None = None, train: bool = False) -> Array:
        """Every hidden state, [depth + 1, *x.shape]: x itself, then the output of each layer."""
        layer, stacked = self._layer(inputs, key, train)

        def step(x: Array, inner: Any) -> tuple[Array, Array]:
            y = layer(x, *inner)
            return y, y

        outputs = jax.lax.scan(step, x, (stacked, jax.numpy.arange(self.depth)))[1]
        return jax.numpy.concatenate([x[None], outputs])

    def _layer(self, inputs: Any, key: Array | None, train: bool) -> tuple[Any, Any]:
        """One layer as a function of (x, its parameters, its index), and the stacked parameters."""
        graphdef, stacked = nnx.split(self.layers)

        def layer(x: Array, state: Any, index: Any) -> Array:
            folded = None if key is None else jax.random.fold_in(key, index)
            return nnx.merge(graphdef, state)(x, *inputs, key=folded, train=train)

        if self.remat is not None:
            layer = jax.checkpoint(layer, policy=getattr(jax.checkpoint_policies, self.remat))
        return layer, stacked


def called(module: Any, remat: str | None, *inputs: Any, **options: Any) -> Any:
    """module(*inputs, **options), thought over again in the backward pass but for what the policy `remat` keeps."""
    if remat is None:
        return module(*inputs, **options)
    graphdef, state = nnx.split(module)

    def run(state: Any, *inputs: Any) -> Any:
        return nnx.merge(graphdef, state)(*inputs, **options)

    return jax.checkpoint(run, policy=getattr(jax.checkpoint_policies, remat))(state, *inputs)


def _unstacked(tree: Any, depth: int) -> list[Any]:
    """The layers of a stacked tree. Split at once, so that their gradients are joined at once too: indexing one by one would
    make each gradient a sum of `depth` padded arrays, which XLA on the CPU works out anew for every use.
    """
    leaves, treedef = jax.tree.flatten(tree)
    parts = [[part[0] for part in jax.lax.split(leaf, (1,) * depth)] for leaf in leaves]
    return [jax.tree.unflatten(treedef, layer) for layer in zip(*parts)]


def _plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {str(name): _plain(value) for name, value in tree.items()}
    return tree


def _fill(abstract: Any, params: Params) -> Any:
    """The state of `abstract` with the arrays of `params`; the two must have the same paths."""
    flat = {}
    for path, variable in nnx.to_flat_state(abstract):
        value: Any = params
        for part in path:
            value = value[str(part)]
        flat[path] = variable.replace(value)
    return nnx.from_flat_state(flat)
