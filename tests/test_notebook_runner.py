"""tools/notebooks.py: what it stores and refuses; book/conftest.py: the order of the tests."""

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from gan_tutorial import live

ROOT = Path(__file__).resolve().parent.parent
FIRST = "# A chapter\n\nIt says what it is for.\n\n**Run time**: about 0 s on two CPU cores"


def load(file: str) -> ModuleType:
    """Import a file that is not a module of the package."""
    specification = importlib.util.spec_from_file_location(Path(file).stem, ROOT / file)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


runner, settings = load("tools/notebooks.py"), load("book/conftest.py")


def write(folder: Path, *sources: str, first: str = FIRST) -> Path:
    """Write a notebook without outputs."""
    path = folder / "chapter.ipynb"
    cells = [new_markdown_cell(first), *map(new_code_cell, sources)]
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_stores_outputs_counts_and_run_time(tmp_path: Path) -> None:
    path = write(tmp_path, "import sys\nfor i in range(2):\n    print(i)", "6 * 7")
    seconds = runner.execute(path)
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2]
    assert notebook.cells[1].outputs[0].text == "0\n1\n"
    assert notebook.cells[2].outputs[0].data == {"text/plain": "42"}
    assert f"about {runner.shown(seconds)} s on" in notebook.cells[0].source
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert all("execution" not in cell.metadata for cell in notebook.cells)
    assert [file.name for file in tmp_path.iterdir()] == ["chapter.ipynb"]


def test_refreshes_explorers_without_running_their_notebook(tmp_path: Path) -> None:
    path = write(tmp_path, "from gan_tutorial import live\nlive.dirac()", "print('ran')")
    notebook = nbformat.read(path, as_version=4)
    old = live.dirac()._repr_html_().replace("use strict", "use old")
    data = {"text/html": old, "text/plain": "Explorer()"}
    notebook.cells[1].outputs = [new_output("display_data", data)]
    nbformat.write(notebook, path)
    assert runner.main(["refresh", str(path)]) == 0
    stored = nbformat.read(path, as_version=4)
    assert stored.cells[1].outputs[0].data["text/html"] == live.dirac()._repr_html_()
    assert stored.cells[2].outputs == []
    assert not runner.refresh(path)  # nothing is left to do


def test_stores_neither_progress_bars_nor_widgets(tmp_path: Path) -> None:
    bar = "from tqdm import tqdm\nfor i in tqdm(range(3)):\n    pass\nprint('done')"
    path = write(tmp_path, bar, "import ipywidgets\nipywidgets.IntSlider()")
    runner.execute(path)
    first, second = nbformat.read(path, as_version=4).cells[1:]
    assert [output.get("name") for output in first.outputs] == ["stdout"]
    assert second.outputs == []


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import warnings\nwarnings.warn('mind this')", "cell 1 warns"),
        (
            "import sys\nfrom tqdm import tqdm\nfor i in tqdm(range(2)):\n"
            "    print('mind this', file=sys.stderr)",
            "cell 1 warns: .*mind this",
        ),
        ("open('left.txt', 'w').close()", "left.txt"),
        ("import os\nos._exit(1)", "[Kk]ernel died"),
    ],
)
def test_refuses_errors_warnings_files_and_dead_kernels(
    tmp_path: Path, source: str, says: str
) -> None:
    path = write(tmp_path, source)
    before = path.read_bytes()
    with pytest.raises(runner.NotebookError, match=says):
        runner.execute(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["chapter.ipynb"]


def test_keeps_what_was_saved_while_the_notebook_ran(tmp_path: Path) -> None:
    path = tmp_path / "chapter.ipynb"
    path = write(
        tmp_path,
        f"from pathlib import Path\nfile = Path({str(path)!r})\n"
        "_ = file.write_text(file.read_text() + ' ')",
    )
    before = path.read_text()
    with pytest.raises(runner.NotebookError, match="was changed while it ran; run it again"):
        runner.execute(path)
    assert path.read_text() == before + " "


def test_refuses_a_notebook_without_a_run_time(tmp_path: Path) -> None:
    path = write(tmp_path, "1", first="# A chapter")
    with pytest.raises(runner.NotebookError, match="Run time"):
        runner.execute(path)


@pytest.mark.parametrize("text", [None, "not a notebook"])
def test_refuses_a_file_that_is_no_notebook(
    tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "chapter.ipynb"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    assert runner.main(["execute", str(path)]) == 1
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.2, 1), (9.1, 10), (10.0, 10), (10.1, 15), (41.0, 45)]
)
def test_rounds_the_run_time_up(seconds: float, shown: int) -> None:
    assert runner.shown(seconds) == shown


def test_writes_the_run_time_into_the_table_of_the_cover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "BOOK", tmp_path)
    cover = tmp_path / "index.md"
    cover.write_text(
        "| [A](idea/a.ipynb) | learn | – |\n| [B](idea/b.ipynb) | more | 7 s |\n", encoding="utf-8"
    )
    runner.update_cover(tmp_path / "idea" / "a.ipynb", 12)
    assert cover.read_text(encoding="utf-8") == (
        "| [A](idea/a.ipynb) | learn | 12 s |\n| [B](idea/b.ipynb) | more | 7 s |\n"
    )


def test_side_by_side_the_longest_notebook_starts_first(tmp_path: Path) -> None:
    cells = []
    for seconds in (9, 55, 20):
        folder = tmp_path / str(seconds)
        folder.mkdir()
        path = write(folder, first=FIRST.replace("about 0 s", f"about {seconds} s"))
        cells += [SimpleNamespace(path=path, name=f"{seconds} s, cell {i}") for i in range(2)]
    alone, worker = SimpleNamespace(), SimpleNamespace(workerinput={})
    before = list(cells)
    settings.pytest_collection_modifyitems(alone, cells)
    assert cells == before
    settings.pytest_collection_modifyitems(worker, cells)
    assert [cell.name for cell in cells] == [
        f"{seconds} s, cell {i}" for seconds in (55, 20, 9) for i in range(2)
    ]
