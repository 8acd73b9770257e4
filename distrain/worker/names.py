"""From a name in the job file to a function, and from its `args` to a call that can work.

Owns `package.module:function` and what is said of a wrong name or argument. Does not know what the function is for.
Standard library only.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from distrain.worker.refusal import Refusal

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def resolve(name: str) -> Callable[..., Any]:
    """The function that `package.module:function` names, imported along `sys.path`.

    Raises:
        Refusal: the name has another form, or there is no such module, or nothing callable in it by that name.
        Exception: whatever the user's module itself raises while it is imported.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise Refusal(f"{name!r} names no function: write package.module:function")
    if module_name.endswith(".py") or "/" in module_name:
        dotted = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise Refusal(f"{name!r} names a file: write the module, {dotted}:{attribute or 'function'}")
    if not _DOTTED.fullmatch(module_name) or not _DOTTED.fullmatch(attribute):
        raise Refusal(f"{name!r} names no function: write package.module:function")
    found: Any = _import(module_name)
    reached = module_name
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            public = [other for other in dir(found) if not other.startswith("_")]
            raise Refusal(f"{reached} has no {part!r}{suggestion(part, public)}") from None
        reached = f"{module_name}:{part}" if reached == module_name else f"{reached}.{part}"
    if not callable(found):
        raise Refusal(f"{name} is a {type(found).__name__}, not a function: name something that can be called")
    return found


def _import(module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name != missing and not module_name.startswith(missing + "."):
            raise  # the user's module was found; it is its own import that fails
        parent, _, last = missing.rpartition(".")
        known = getattr(sys.modules.get(parent), "__path__", None) if parent else None
        if parent and known is None:
            raise Refusal(f"there is no module {missing}, for {parent} is a module and not a package") from None
        near = suggestion(last, (module.name for module in pkgutil.iter_modules(known)))
        places = list(known) if known is not None else [place or "." for place in sys.path[:4]]
        raise Refusal(f"there is no module {missing}{near}; looked in {', '.join(places)}") from None
    except SystemExit as error:
        raise Refusal(
            f"importing {module_name} ended the program (sys.exit): "
            "put what it runs as a script under if __name__ == '__main__'"
        ) from error


def check_arguments(function: Callable[..., Any], name: str, args: Iterable[str]) -> None:
    """See that `function`, called `name` in the job, can be called with keyword arguments named `args`.

    Raises:
        Refusal: an argument that it does not take, with those that it takes, nearest first; or one that it lacks.
    """
    given = list(args)
    takes = parameters(function)
    if takes is None:
        return
    named = [
        key
        for key, parameter in takes.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    for arg in given:
        if arg not in named and not anything:
            nearest = sorted(named, key=lambda key: -difflib.SequenceMatcher(None, arg, key).ratio())
            valid = f"it takes {', '.join(nearest)}" if nearest else "it takes none"
            raise Refusal(f"{name} has no argument {arg!r}; {valid}")
    lacking = [
        key
        for key, parameter in takes.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and key not in given
    ]
    if lacking:
        raise Refusal(f"{name} needs {', '.join(map(repr, lacking))}: give it under args")


def parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """What `function` takes, by name. None: it does not say, as some written in C do not."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None


def suggestion(wrong: str, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest of `valid`, or nothing when none is near."""
    near = difflib.get_close_matches(wrong, list(valid), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
