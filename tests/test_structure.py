"""The package: no import cycle, no beyond or ship in the core, no PyTorch in the service, docs."""

import ast
import importlib
import inspect
import os
import platform
import re
import subprocess
import sys
import textwrap
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import gan_tutorial

PACKAGE = Path(gan_tutorial.__file__).parent
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
} | {"live": PACKAGE / "live/__init__.py"}
MODULES = list(FILES)
SERVING = [name for name in MODULES if name.startswith("ship.serving.")]
TORCH_FREE = ["arrays", "checks", "files", "live", "pictures", *SERVING]


def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def imports(module: str) -> set[str]:
    """Return the modules of the package that a module imports, at the top or in a function."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import; name the package"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.removeprefix("gan_tutorial.") for name in names} & FILES.keys()
    return found


def functions(module: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree(module)) if isinstance(node, kinds)]


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
                if not key.startswith("_")
                and (inspect.isroutine(method) or isinstance(method, property))
            ]
        if inspect.isclass(value) or inspect.isfunction(value):
            found.append((name, value))
    return found


def test_there_is_no_import_cycle():
    graph = {module: imports(module) for module in MODULES}
    assert graph["metrics"] >= {"classifier", "data"}  # the control: imports are found
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", [name for name in MODULES if "." not in name])
def test_the_core_imports_neither_beyond_nor_ship(module):
    if module != "__main__":  # the command line has commands of every part
        assert not [name for name in imports(module) if name.startswith(("beyond.", "ship."))]


def loads_pytorch(module: str) -> bool:
    """Return whether importing a module, and what it imports, loads PyTorch in a new process."""
    program = f"import gan_tutorial.{module}, sys; print('torch' in sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip() == "True"


@pytest.mark.parametrize("module", TORCH_FREE)
def test_imports_no_pytorch(module):
    assert not loads_pytorch(module)


def test_an_import_of_pytorch_would_be_seen():
    """The control of the test above."""
    assert loads_pytorch("runtime")


@pytest.mark.parametrize(("given", "read"), [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_openmp_reads_how_long_threads_spin(given, read):
    """It prints what it has read when PyTorch loads it; without the package this is 300000."""
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE"} | given
    command = [sys.executable, "-c", "import gan_tutorial.runtime"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = re.findall(r"GOMP_SPINCOUNT = '(\w+)'", done.stderr)
    if not found:
        pytest.skip("PyTorch has another OpenMP than GCC's here")
    assert set(found) == {read}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize(("given", "kept"), [({}, True), ({"MALLOC_ARENA_TEST": "8"}, False)])
def test_freed_memory_is_kept_unless_the_user_sets_glibc(given, kept):
    """Blocks that are freed and allocated again need no new pages: 16 MiB are 4,096."""
    program = """
        import resource
        import gan_tutorial
        faults = []
        for _ in range(10):
            blocks = [bytearray(b"x") * 2**22 for _ in range(4)]
            del blocks
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        print(faults[-1] - faults[4])
    """
    settings = ("MALLOC_", "GLIBC_TUNABLES")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(settings)} | given
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (int(done.stdout) < 500) == kept


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
            named = argument.annotation or argument.arg in ("self", "cls")
            assert named, f"{module}.{function.name}({argument.arg})"
        assert function.returns, f"{module}.{function.name} does not say what it returns"


def test_the_page_of_the_package_lists_every_module():
    page = (PACKAGE.parent / "book/reference/api.md").read_text(encoding="utf-8")
    hidden = {"ship.serving.__main__"}
    assert {name for name in MODULES if f"automodule:: gan_tutorial.{name}\n" not in page} == hidden


def test_every_third_party_import_has_a_mock_for_the_page_of_the_package():
    """So that ``make book`` needs none of these packages."""
    config = (PACKAGE.parent / "_config.yml").read_text(encoding="utf-8")
    for module in MODULES:
        for node in ast.walk(tree(module)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in {name.split(".")[0] for name in names}:
                ours = name == "gan_tutorial" or name in sys.stdlib_module_names
                assert ours or f"      - {name}\n" in config, f"add {name} to autodoc_mock_imports"
