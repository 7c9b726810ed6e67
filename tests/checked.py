"""Types and shapes of every function of the package, checked while the tests run.

jaxtyping's hook would wrap each function so that its shapes are a scope of their own: every call binds its arguments anew
and is checked twice. Only functions whose annotations name shapes need that. beartype alone checks the others, which are
most of them, in a third of the suite's time less.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, get_args

import beartype
import jaxtyping

_scoped = jaxtyping.jaxtyped


def names_shapes(annotation: Any, names: dict[str, Any]) -> bool:
    """Whether an annotation, perhaps a string, has an array of some shape somewhere within."""
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, names)
        except NameError:  # known to type checkers alone, or local
            return True
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray | jaxtyping.PyTree):
        return True
    return any(names_shapes(part, names) for part in get_args(annotation) if not isinstance(part, str))


def _checked(function: Any = None, *, typechecker: Callable[..., Any]) -> Any:
    if function is None:
        return functools.partial(_checked, typechecker=typechecker)
    if isinstance(function, types.FunctionType):
        annotations = function.__annotations__
        if not any(names_shapes(annotation, function.__globals__) for annotation in annotations.values()):
            return _where_enabled(function) if annotations else function
    return _scoped(function, typechecker=typechecker)


def _where_enabled(function: Callable[..., Any]) -> Callable[..., Any]:
    typed = beartype.beartype(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (function if jaxtyping.config.jaxtyping_disable else typed)(*args, **kwargs)

    return call


def check_types(package: str) -> None:
    """Has every function of `package` checked that is imported from now on."""
    jaxtyping.jaxtyped = _checked
    jaxtyping.install_import_hook(package, "beartype.beartype")
