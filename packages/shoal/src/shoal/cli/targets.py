"""Which flow to run: `path/to/file.py:flow`, `package.module:flow`, or without `:flow` where there is only one."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal import Flow, Task
from shoal.exceptions import FlowNotFound, ScriptError
from shoal.spelling import did_you_mean

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["find_flow"]

_FORMS = "write path/to/file.py:flow or package.module:flow"

#: The module of a file that cannot be imported by a name.
_NAMELESS = "__shoal_file__"


def find_flow(target: str) -> Flow[..., Any]:
    """Loads a file or module, and finds the flow in it.

    Raises:
        ScriptError: there is no such file, module or name, or the name is no flow's.
        FlowNotFound: no name was given, and there is not exactly one flow.
        Exception: what the user's code raises when it is loaded.
    """
    place, name = _split(target)
    module = _load_file(target, Path(place)) if _is_path(place) else _load_module(target, place)
    return _flow_of(module, target, place, name)


def _split(target: str) -> tuple[str, str | None]:
    place, colon, name = target.rpartition(":")
    if not colon or set(name) & {"/", "\\"}:  # the colon of C:\flows.py is none of ours
        return target, None
    if not place or not name:
        raise ScriptError(target=target, problem=_FORMS)
    return place, name


def _is_path(place: str) -> bool:
    return place.endswith(".py") or "/" in place or os.sep in place or Path(place).is_file()


# ---------------------------------------------------------------------- loading


def _load_file(target: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise _no_such_file(target, path)
    path = path.resolve()
    sys.path.insert(0, str(path.parent))  # as `python path/to/file.py` does
    if _imports_as(path.stem, path):
        return importlib.import_module(path.stem)
    return _load_nameless(target, path)


def _no_such_file(target: str, path: Path) -> ScriptError:
    if path.is_dir():
        return ScriptError(
            target=target, problem=f"{str(path)!r} is a folder; name a Python file in it"
        )
    error = ScriptError(target=target, problem=f"there is no file {str(path)!r}")
    if path.parent.is_dir():
        beside = {file.stem: str(file) for file in sorted(path.parent.glob("*.py"))}
        error.add_note(did_you_mean(path.stem, beside))
    else:
        error.add_note(f"There is no folder {str(path.parent)!r} either.")
    return error


def _imports_as(name: str, path: Path) -> bool:
    """Whether `import name` gives this file, and not a module that was there first."""
    if "." in name or name == "__main__":
        return False
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module without a spec has the name
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == path


def _load_nameless(target: str, path: Path) -> ModuleType:
    """Loads a file called like another module, or like none can be called; workers get its functions by value."""
    import cloudpickle

    spec = importlib.util.spec_from_file_location(_NAMELESS, path)
    if spec is None or spec.loader is None:
        raise ScriptError(target=target, problem=f"{str(path)!r} is no Python file (.py)")
    module = sys.modules[_NAMELESS] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)
    return module


def _load_module(target: str, name: str) -> ModuleType:
    if not all(name.split(".")):  # a relative name, or a folder
        raise ScriptError(target=target, problem=_FORMS)
    sys.path.insert(0, str(Path.cwd()))  # as `python -m name` does
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            raise  # it is the user's code that misses something
        file = Path(*name.split(".")).with_suffix(".py")
        refusal = ScriptError(target=target, problem=f"there is no module {name!r}")
        refusal.add_note(
            f"For a file, write {file if file.is_file() else 'its path, with .py at the end'}."
        )
        raise refusal from None


# ---------------------------------------------------------------------- finding


def _flow_of(module: ModuleType, target: str, place: str, name: str | None) -> Flow[..., Any]:
    named = {key: value for key, value in vars(module).items() if isinstance(value, Flow)}
    if name is None:
        own = {key: value for key, value in named.items() if value.__module__ == module.__name__}
        flows = own or named
        if len(set(flows.values())) == 1:
            return next(iter(flows.values()))
        raise _not_one(target, place, sorted(flows))
    if name in named:
        return named[name]
    # Log lines call a flow by its own name, "count-words", and not by the function's.
    same = [value for value in named.values() if value.name == name]
    if same:
        return same[0]
    raise _no_such_flow(target, place, name, sorted(named), getattr(module, name, None))


def _not_one(target: str, place: str, flows: list[str]) -> FlowNotFound:
    error = FlowNotFound(target=target, found=flows)
    error.add_note(
        f"Say which: {place}:{flows[0]}" if flows else "A flow is a function decorated with @flow."
    )
    return error


def _no_such_flow(target: str, place: str, name: str, flows: list[str], value: object) -> Exception:
    error: FlowNotFound | ScriptError
    if value is None:
        error = FlowNotFound(target=place, flow_name=name, found=flows)
    else:
        kind = "a task" if isinstance(value, Task) else f"of type {type(value).__name__}"
        there = f". Flows there: {', '.join(map(repr, flows))}" if flows else ""
        error = ScriptError(target=target, problem=f"{name!r} is {kind}, not a flow{there}")
    error.add_note(did_you_mean(name, flows) if flows else "Decorate a function with @flow.")
    return error
