"""Run the book's notebooks from top to bottom and store their outputs and their run time.

    python tools/notebooks.py execute                           every notebook of the book
    python tools/notebooks.py execute book/first-gan/data.ipynb     only those named
    python tools/notebooks.py refresh     store the present scripts and stills of the live parts

A notebook is replaced only if it ran without an error, a warning, or a new file in its
working folder; otherwise the old one stays, and the command ends with status 1. `refresh` runs
nothing: explorers and players keep their data, such as a generator's weights, and their text.
"""

import argparse
import math
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm

from gan_tutorial import live, plotting
from gan_tutorial.files import replacing

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
CELL_TIMEOUT = 900  # seconds: for a cell that hangs, not for a machine that is slow or busy
PROGRESS_BAR = re.compile(r".*?(\d+%\|[^|]*\|[^\[]*|\d+\s?\w*\s)\[\d+:\d+[^\]]*\]")
RUN_TIME = re.compile(r"^\*\*Run time\*\*: about \d+ s on two CPU cores", flags=re.MULTILINE)
WIDGET = "application/vnd.jupyter.widget-view+json"


class NotebookError(Exception):
    """A notebook does not run as it should; the message says where and what to do."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["execute", "refresh"])
    parser.add_argument(
        "notebooks", nargs="*", type=Path, help="all those in book/ when none is named"
    )
    given = parser.parse_args(arguments)
    paths = given.notebooks or notebooks(BOOK)
    if given.action == "refresh":
        for path in paths:
            if refresh(path):
                print(f"{path}: refreshed")
        return 0
    failed = 0
    for path in (bar := tqdm(paths, disable=None)):
        bar.set_description(path.stem)
        try:
            seconds = execute(path)
        except NotebookError as error:
            failed += 1
            tqdm.write(f"{path}: not stored: {error}", file=sys.stderr)
        else:
            tqdm.write(f"{path}: {seconds:.1f} s")
    return 1 if failed else 0


def notebooks(folder: Path) -> list[Path]:
    """Return every notebook below a folder, sorted, without Jupyter's own copies."""
    return sorted(
        path for path in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
    )


def execute(path: Path) -> float:
    """Run one notebook in a fresh kernel, store it, and return the seconds that it took.

    Raises:
        NotebookError: a cell failed, warned, or left a file behind, or the notebook was changed
            meanwhile; nothing was stored.
    """
    try:
        before = path.read_bytes()
        notebook = nbformat.reads(before.decode(), as_version=4)
    except (OSError, UnicodeError, nbformat.reader.NotJSONError) as error:
        raise NotebookError(f"it cannot be read: {error}") from error
    seconds = run(notebook, path.parent)
    tidy(notebook)
    state_run_time(notebook, shown(seconds))
    nbformat.validate(notebook)
    if not path.is_file() or path.read_bytes() != before:
        raise NotebookError("it was changed while it ran; run it again")
    with replacing(path) as temporary:
        nbformat.write(notebook, temporary)
    update_cover(path, shown(seconds))
    return seconds


def refresh(path: Path) -> bool:
    """Put the present scripts, style and stills into explorers and players; say whether any differ.

    Cells are not run.
    """
    notebook = nbformat.read(path, as_version=4)
    changed = False
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            old = output.get("data", {}).get("text/html", "")
            if (new := plotting.refreshed(live.refreshed(old))) != old:
                output.data["text/html"] = new
                changed = True
    if changed:
        with replacing(path) as temporary:
            nbformat.write(notebook, temporary)
    return changed


def run(notebook: NotebookNode, programs: Path = BOOK) -> float:
    """Run all cells, in an empty temporary folder; return the seconds, kernel start included.

    The cells can import the programs of the folder ``programs``, as if they ran there.
    """
    paths = [str(programs.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
    # The kernel inherits GOMP_SPINCOUNT, which gan_tutorial has set, as in `make lab`.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # over a kernel in the home folder
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        start = time.perf_counter()
        try:
            client.execute(env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise NotebookError(str(error)) from error
        seconds = time.perf_counter() - start
        if left := sorted(path.name for path in Path(folder).iterdir()):
            raise NotebookError(
                f"it leaves files behind: {', '.join(left)}; write to tempfile.TemporaryDirectory()"
            )
    return seconds


def tidy(notebook: NotebookNode) -> None:
    """Remove what differs between runs: timings, kernel names, progress bars, live widgets.

    Raises:
        NotebookError: a cell wrote something other than a progress bar to the error stream.
    """
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    for number, cell in enumerate(notebook.cells):
        for volatile in ("execution", "collapsed", "lines_to_next_cell"):
            cell.metadata.pop(volatile, None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if keeps(output, number)]


def keeps(output: NotebookNode, number: int) -> bool:
    """Tell whether an output of cell ``number`` is stored."""
    if output.output_type == "stream" and output.name == "stderr":
        lines = [
            line
            for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[\w", "", output.text))
            if line.strip()
        ]
        if others := [line for line in lines if PROGRESS_BAR.sub("", line).strip()]:
            raise NotebookError(
                f"cell {number} warns: {others[0]!r}; fix the cause, or show it in the cell"
            )
        return False
    return WIDGET not in output.get("data", {})


def shown(seconds: float) -> int:
    """Round a duration up as a reader needs it: to a second, beyond ten to the next five."""
    return math.ceil(seconds) if seconds <= 10 else 5 * math.ceil(seconds / 5)


def state_run_time(notebook: NotebookNode, seconds: int) -> None:
    """Write the run time into the line of the first cell that states it.

    Raises:
        NotebookError: there is no such line.
    """
    first = notebook.cells[0]
    first.source, count = RUN_TIME.subn(
        f"**Run time**: about {seconds} s on two CPU cores", first.source
    )
    if not count:
        raise NotebookError(
            "its first cell needs the line '**Run time**: about 0 s on two CPU cores'"
        )


def update_cover(path: Path, seconds: int) -> None:
    """Write the run time into the row of the notebook in the cover's map, if there is one."""
    cover = BOOK / "index.md"
    if not path.resolve().is_relative_to(BOOK):
        return
    link = f"({path.resolve().relative_to(BOOK).as_posix()})"
    lines = cover.read_text(encoding="utf-8").splitlines()
    rows = [
        re.sub(r"\|[^|]*\|\s*$", f"| {seconds} s |", line)
        if line.startswith("|") and link in line
        else line
        for line in lines
    ]
    if rows != lines:
        with replacing(cover) as temporary:
            temporary.write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
