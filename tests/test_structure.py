"""The house: a module imports only from floors below its own, stays small, and explains every public name."""

import ast
import importlib
import inspect
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import gan_tutorial

HOUSE = Path(gan_tutorial.__file__).parent
FLOORS = (
    {"runtime", "drawing", "batching"},
    {"data", "mixtures", "augment"},
    {"networks", "losses", "penalties", "plotting", "sounds"},
    {"door", "training", "checkpoints", "sampling", "features", "ladder", "text"},
    {"audio", "directions", "recipes", "runs", "parallel", "vae"},
    {"widgets", "metrics", "export"},
    {"__main__", "serve"},
)
FLOOR = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
MODULES = sorted(FLOOR)
UNTYPED = {"self", "cls", "state"}  # a TrainState stands on the floor of checkpoints, which may not import it
MOST_LINES, MOST_STATEMENT_LINES = 330, 50  # about 300 and about 40, with a little room


def tree(module: str) -> ast.Module:
    return ast.parse((HOUSE / f"{module}.py").read_text())


def imports(module: str) -> set[str]:
    """Return the modules of the package that a module imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively; name the package"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("gan_tutorial.")}
    return found


def functions(module: str) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree(module)) if isinstance(node, ast.FunctionDef)]


def public(module: str) -> list[tuple[str, object]]:
    """Return the public names that a module defines, and the public methods of its classes."""
    home = importlib.import_module(f"gan_tutorial.{module}")
    found = []
    for name, value in vars(home).items():
        if name.startswith("_") or getattr(value, "__module__", None) != home.__name__:
            continue
        if inspect.isclass(value):
            found += [
                (f"{name}.{key}", method)
                for key, method in vars(value).items()
                if not key.startswith("_") and (inspect.isroutine(method) or isinstance(method, property))
            ]
        if inspect.isclass(value) or inspect.isfunction(value):
            found.append((name, value))
    return found


def test_every_module_has_a_floor():
    present = {path.stem for path in HOUSE.glob("*.py")} - {"__init__"}
    assert present == set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    up = {name for name in imports(module) if FLOOR[name] >= FLOOR[module]}
    assert not up, f"{module} (floor {FLOOR[module]}) imports from its own floor or above: {sorted(up)}"


def test_no_cycle():
    TopologicalSorter({module: imports(module) for module in MODULES}).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_functions_are_small(module):
    assert len((HOUSE / f"{module}.py").read_text().splitlines()) <= MOST_LINES
    for function in functions(module):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        lines = function.end_lineno - body[0].lineno + 1 if body else 0
        assert lines <= MOST_STATEMENT_LINES, f"{module}.{function.name} has {lines} lines"


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_a_docstring(module):
    assert importlib.import_module(f"gan_tutorial.{module}").__doc__
    for name, value in public(module):
        assert inspect.getdoc(value), f"{module}.{name} has no docstring"


@pytest.mark.parametrize("module", MODULES)
def test_every_function_has_type_hints(module):
    for function in functions(module):
        if function.name.startswith("_") and not function.name.startswith("__"):
            continue
        arguments = function.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            assert argument.annotation or argument.arg in UNTYPED, f"{module}.{function.name}({argument.arg})"
        assert function.returns, f"{module}.{function.name} does not say what it returns"
