"""The types that the parts of the package share: arrays, parameters, predictions and the protocols between layers.

Everything here is either a name for a type, a protocol, or a frozen dataclass that is a pytree. Nothing computes.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, dataclass_transform, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

__all__ = [
    "Apply",
    "Array",
    "Batch",
    "Context",
    "DenoiseFn",
    "Float",
    "Int",
    "Key",
    "LossFn",
    "Params",
    "Prediction",
    "PyTree",
    "Schedule",
    "Solver",
    "Source",
    "Tokenizer",
    "UserError",
    "nearest_path",
    "one_of",
    "path_of",
    "pytree_dataclass",
    "static",
    "texts_of",
    "whole_number",
]

T = TypeVar("T")

Params = dict[str, Any]
"""Plain nested dicts with string keys and arrays as leaves."""

Batch = Mapping[str, Any]
"""Arrays with the same leading axis, by name."""


class UserError(ValueError):
    """Something a user can mend. The message is one line that names the value; the CLI prints it without a traceback."""


def one_of(what: str, value: Any, options: Iterable[str]) -> str:
    """`value` when it is among `options`, else a `UserError` that names it and the nearest option, of any case.

    An empty option is taken but not listed: it is no name.
    """
    options = sorted(options)
    if isinstance(value, str) and value in options:
        return value
    known = ", ".join(option for option in options if option)
    if not isinstance(value, str):
        raise UserError(f"{what} is a {type(value).__name__}, not a name (known: {known})")
    lower = {option.casefold(): option for option in options}
    near = difflib.get_close_matches(value.casefold(), lower, n=1, cutoff=0.5)
    hint = f"; did you mean {lower[near[0]]!r}?" if near else ""
    raise UserError(f"{what} {value!r} is not known{hint} (known: {known})")


def nearest_path(name: str, names: Iterable[str]) -> str | None:
    """The one of `names`, of files or folders, that `name` may have meant, of any case; None where none is near.

    Near is a name whose stem has most of its letters in common, or differs in one: an ending that both have says nothing.
    """
    wanted = _stem(name[-300:])
    stems: dict[str, list[str]] = {}
    for other in names:
        stems.setdefault(_stem(other), []).append(other)
    near = difflib.get_close_matches(wanted, stems, n=1) or [
        stem for stem in stems if len(stem) == len(wanted) and sum(a != b for a, b in zip(stem, wanted)) == 1
    ]
    if not near:
        return None
    return max(
        stems[near[0]], key=lambda other: difflib.SequenceMatcher(None, other.casefold(), name.casefold()).ratio()
    )


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path.rstrip("/")).casefold())[0]


def texts_of(what: str, given: Any) -> list[str]:
    """One text or several as a list: a text alone counts as one, never as its letters. `UserError` for none and others."""
    one = isinstance(given, str | bytes) or given is None
    if not one and (isinstance(given, Mapping | set | frozenset) or not isinstance(given, Iterable)):
        raise UserError(f"{what} is a {type(given).__name__}, which is not text: give one text or a list of texts")
    texts = [given] if one else list(given)
    if not texts:
        raise UserError(f"{what}: none is given, give at least one {what.removesuffix('s')}")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            place = what if one else f"{what}[{i}]"
            raise UserError(f"{place} is a {type(text).__name__}, which is not text")
    return [str(text) for text in texts]


def path_of(what: str, given: Any) -> Path:
    """`given`, text or a path, as a `Path`. `UserError` for anything else."""
    if (isinstance(given, str) and given) or (isinstance(given, os.PathLike) and isinstance(os.fspath(given), str)):
        return Path(given)
    told = repr(given) if given is None or given == "" else f"the {type(given).__name__} {given!r:.60}"
    raise UserError(f"{what} is {told}, not a path: give text, or a pathlib.Path")


def whole_number(what: str, value: Any, low: int, high: int | None = None) -> int:
    """`value` as an int when it is a whole number in [low, high]; else a `UserError` that names the nearest that is."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if whole and low <= value and (high is None or value <= high):
        return int(value)
    wanted = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
    near = f"; nearest: {min(max(low, int(value)), low if high is None else high)}" if whole else ""
    raise UserError(f"{what} {value!r} is not {wanted}{near}")


def static(**kwargs: Any) -> Any:
    """A dataclass field that is part of the tree's structure: a change of it recompiles."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def pytree_dataclass(cls: type[T]) -> type[T]:
    """A frozen dataclass registered as a pytree; fields made by `static` are structure, the others leaves."""
    made = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(made)  # type: ignore[arg-type]
    meta = [f.name for f in fields if f.metadata.get("static")]
    data = [f.name for f in fields if not f.metadata.get("static")]
    jax.tree_util.register_dataclass(made, data_fields=data, meta_fields=meta)
    return made


@pytree_dataclass
class Prediction:
    """What a denoiser says of `xt`: the pair with xt = alpha x0 + sigma eps, and the learned variance where there is one.

    Shapes: `x0` and `eps` as `xt` ([batch, ...]); `variance` as the network gives it, or None.
    """

    # Any, not Array: JAX's transformations also put shapes and placeholders into a tree's leaves.
    x0: Any
    eps: Any
    variance: Any = None


@runtime_checkable
class Schedule(Protocol):
    """x_t = alpha(t) x0 + sigma(t) eps for t in [t_min, t_max] within [0, 1]; data at t = 0, noise at t = 1.

    Each method takes a scalar or [batch] array of times and is elementwise. `logsnr` is 2 log(alpha / sigma), clipped
    to [-20, 20]; `t_from_logsnr` is its inverse.

    It may declare its limits, which tests read, as constants or properties: `clean` (bool), whether the data at t = 0 are
    exactly clean, alpha = 1 and sigma = 0; and `pure_noise` (bool), whether no signal is left at t = 1, alpha = 0.
    """

    @property
    def t_min(self) -> float: ...
    @property
    def t_max(self) -> float: ...
    def alpha(self, t: Array) -> Array: ...
    def sigma(self, t: Array) -> Array: ...
    def logsnr(self, t: Array) -> Array: ...
    def t_from_logsnr(self, logsnr: Array) -> Array: ...


@runtime_checkable
class DenoiseFn(Protocol):
    """(xt [batch, ...], t, cond: any pytree with leading axis batch, or None) -> Prediction of xt's shape, in floats.

    Write it for one time, a scalar t that all examples share (`alpha(t) * xt`), or for times [batch] (`alpha(t)[:, None] * xt`,
    and most networks): every function of this package finds out which by shapes alone, and asks it so, see `process.asking`. It
    treats each example by itself; what belongs to an example goes through cond. One that takes both shapes of t may say so
    as a `process.asking.AnyTime`, as all denoisers of this package do. Called directly, these take either.
    """

    def __call__(self, xt: Array, t: Array, cond: PyTree = None) -> Prediction: ...


@runtime_checkable
class Solver(Protocol):
    """One step of sampling from t down to t_next < t; `denoise` has its condition bound: (x, t) -> Prediction.

    `key` is a [batch] array of keys, one an example, already folded with the step.

    These two are enough. Beside them a solver may have, for the driver,

    - `over(num_steps)`: the solver for a grid of that length;
    - `check(schedule, first)`, which refuses a grid that begins at the time `first`, and `check_batch(x1)`, a batch;
    - `finish(x0)`, applied to the sample at the very end;
    - `evaluations(schedule, ts)` or `counted(state)`: how often it called the denoiser, where that is not once a step;

    and may declare what it is, which tests and guidance read, as a class's constant or as a property where options decide:

    - `deterministic` (bool): a sample is made of x1 alone, and nothing is drawn;
    - `convergence` (int or None): the order at which the error falls with the number of steps on smooth grids between times
      of finite logsnr, of the sample where it is deterministic, else of mean and variance; None where none is known;
    - `from_pair` (bool): a step is made of the pair at its beginning and of draws alone, x itself having no part in it, so that
      a pair that does not add up to x, as CFG++'s, is taken as it is.
    """

    def init(self, x: Array) -> PyTree: ...
    def step(
        self,
        denoise: Callable[[Array, Array], Prediction],
        schedule: Schedule,
        x: Array,
        t: Array,
        t_next: Array,
        key: Array,
        state: PyTree,
    ) -> tuple[Array, PyTree]: ...


@runtime_checkable
class Apply(Protocol):
    """A network as a function: apply(params, *inputs, key=None, train=False)."""

    def __call__(self, params: Params, *inputs: Any, key: Array | None = None, train: bool = False) -> Any: ...


class Context(NamedTuple):
    """What a loss may read besides the parameters that it differentiates. Arrays handed to jit, never closed over."""

    step: Any = 0  # int32 scalar: the step under way, from 0
    ema: Any = None  # the averaged parameters, or None
    frozen: Any = None  # parameters and tables that do not train (a text encoder, an embedding cache)
    aux: Any = None  # state of the loss itself (importance of times, queues); the loss returns its successor


LossFn = Callable[[Params, Context, Batch, Array], tuple[Array, dict[str, Array], PyTree]]
"""loss_fn(params, ctx, batch, key) -> (per_example [batch], metrics: name -> scalar or [batch], aux)."""


@runtime_checkable
class Source(Protocol):
    """Random-access data: what TFDS data sources, grain sources, lists and folders have in common."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@runtime_checkable
class Tokenizer(Protocol):
    """Texts to rows of ids: start, words, end, padding; masks come from lengths, never from ids."""

    @property
    def context_length(self) -> int: ...
    @property
    def vocabulary_size(self) -> int: ...
    def encode(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """{"tokens": int32 [n, context_length], "length": int32 [n]}."""
        ...

    def explain(self, texts: Sequence[str]) -> list[str]:
        """A line for each thing about the texts that does not reach the model."""
        ...
