"""The contract of a chapter, as far as a program can check it: content, style, stored outputs."""

import ast
import base64
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from gan_tutorial import live, plotting

ROOT = Path(__file__).resolve().parent.parent
PATHS = sorted(
    path for path in (ROOT / "book").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
)
MAXIMUM_BYTES = 1_500_000
RUN_TIME = re.compile(r"^\*\*Run time\*\*: about (\d+) s on two CPU cores$", flags=re.MULTILINE)
ABSOLUTE_PATH = re.compile(
    r"(?<![\w.:/])/(home|root|tmp|usr|work|opt|Users|private|var|mnt)/|[A-Z]:\\\\"
)
EXERCISE = re.compile(
    r"^\s*[`:]{3,}\s*\{exercise\}.*\n(?:\s*:\w+:.*\n)*?\s*:label:\s*(\S+)", flags=re.MULTILINE
)
SOLUTION = re.compile(
    r"^\s*[`:]{3,}\s*\{solution(-start)?\}\s*(\S+)(?P<options>(?:\n\s*:\w+:.*)*)",
    flags=re.MULTILINE,
)
PICTURES = {"image/png", "image/jpeg", "image/svg+xml"}
WIDGET = "application/vnd.jupyter.widget-view+json"
WIDGET_CALL = re.compile(r"\b(widgets\.(?!plot_)[a-z_]+|interact\w*)\(")

if not PATHS:
    pytest.skip("there is no chapter yet", allow_module_level=True)


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    """The path of each notebook."""
    return request.param


@pytest.fixture
def notebook(path: Path) -> NotebookNode:
    """Each notebook of the book."""
    return nbformat.read(path, as_version=4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook: NotebookNode) -> str:
    """Return all Markdown cells as one text."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def data(cell: NotebookNode) -> dict[str, object]:
    """Return the outputs of a cell by MIME type."""
    return {
        kind: value
        for output in cell.get("outputs", [])
        for kind, value in output.get("data", {}).items()
    }


def tags(cell: NotebookNode) -> list[str]:
    """Return the tags of a cell."""
    return cell.metadata.get("tags", [])


def shows_without_a_kernel(cell: NotebookNode) -> bool:
    """Return whether a cell shows a picture, a player or a live explorer."""
    html = str(data(cell).get("text/html", ""))
    return bool(PICTURES & data(cell).keys()) or "gan-player" in html or "gan-live" in html


def test_opens_with_title_purpose_and_run_time(notebook: NotebookNode) -> None:
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    expected = "**Run time**: about N s on two CPU cores"
    assert RUN_TIME.search(first.source), f"the first cell needs '{expected}'"
    after_title = first.source.split("\n\n")[1:]
    paragraphs = [text for text in after_title if text.strip() and not RUN_TIME.search(text)]
    assert paragraphs, "after the title: what the reader will learn, what the chapter assumes"


def test_states_a_run_time_of_at_most_a_hundred_seconds(notebook: NotebookNode) -> None:
    seconds = int(RUN_TIME.search(notebook.cells[0].source)[1])
    assert 0 < seconds <= 100, "execute it: python tools/notebooks.py execute"


def test_is_stored_executed_from_top_to_bottom(notebook: NotebookNode) -> None:
    counts = [cell.execution_count for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_stores_no_error_and_no_stderr(notebook: NotebookNode) -> None:
    for cell in code(notebook):
        assert "raises-exception" not in tags(cell)
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.get("text")


def test_stores_nothing_that_differs_from_run_to_run(notebook: NotebookNode) -> None:
    assert notebook.metadata.get("kernelspec", {}).get("name") == "python3"
    assert "widgets" not in notebook.metadata
    for cell in code(notebook):
        assert "execution" not in cell.metadata
        assert WIDGET not in data(cell)


def test_describes_every_picture(notebook: NotebookNode) -> None:
    for cell in code(notebook):
        shown = data(cell)
        if PICTURES & shown.keys():
            own = cell.metadata.get("mystnb", {})
            for part, key in (("image", "alt"), ("figure", "caption"), ("figure", "name")):
                missing = f"mystnb.{part}.{key} is missing in the metadata of:\n{cell.source}"
                assert own.get(part, {}).get(key, "").strip(), missing
        for image in re.findall(r"<img\b[^>]*>", str(shown.get("text/html", ""))):
            missing = f"an image without alt in the HTML of:\n{cell.source}"
            assert re.search(r'\balt="[^"]*\w[^"]*"', image), missing


PLOT = ("Show the plot's code", "Hide the plot's code")
CHECK = ("Show the check", "Hide the check")
COLUMNS, OPEN_LINES, FOLDED_LINES = 88, 30, 45


def fold(cell: NotebookNode) -> tuple[str, str] | None:
    """Return the two prompts of a folded cell; None for an open one."""
    own = cell.metadata.get("mystnb", {})
    prompts = (own.get("code_prompt_show", ""), own.get("code_prompt_hide", ""))
    return prompts if "hide-input" in tags(cell) else None


def only_checks(node: ast.AST) -> bool:
    """Return whether a statement is an assertion or a block of assertions only."""
    if isinstance(node, ast.For | ast.With | ast.If):
        return all(map(only_checks, [*node.body, *getattr(node, "orelse", [])]))
    return isinstance(node, ast.Assert)


def test_code_that_makes_a_figure_is_folded(notebook: NotebookNode) -> None:
    for cell in code(notebook):
        if PICTURES & data(cell).keys():
            assert fold(cell) == PLOT, cell.source


def test_a_cell_that_only_checks_is_folded(notebook: NotebookNode) -> None:
    for cell in code(notebook):
        if all(map(only_checks, ast.parse(cell.source).body)):
            assert fold(cell) == CHECK, cell.source


def test_a_cell_fits_on_a_screen_and_its_lines_on_the_page(notebook: NotebookNode) -> None:
    for cell in code(notebook):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= (OPEN_LINES if fold(cell) is None else FOLDED_LINES), cell.source
        assert [line for line in lines if len(line) > COLUMNS] == []


def test_has_a_picture(notebook: NotebookNode) -> None:
    assert any(shows_without_a_kernel(cell) for cell in code(notebook))


def test_no_two_figures_have_the_same_name(notebook: NotebookNode) -> None:
    figures = [cell.metadata.get("mystnb", {}).get("figure", {}) for cell in code(notebook)]
    names = [figure["name"] for figure in figures if figure.get("name")]
    assert len(names) == len(set(names))


def test_asserts_what_it_claims(notebook: NotebookNode) -> None:
    assertions = [
        node
        for cell in code(notebook)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Assert)
    ]
    assert assertions
    constant = [node for node in assertions if isinstance(node.test, ast.Constant)]
    assert not constant, "an assertion that cannot fail"


def test_has_three_exercises_with_hidden_solutions(notebook: NotebookNode) -> None:
    text = prose(notebook)
    exercises = EXERCISE.findall(text)
    solutions = [(match[2], match["options"]) for match in SOLUTION.finditer(text)]
    assert len(exercises) >= 3
    assert sorted(label for label, _ in solutions) == sorted(exercises)
    hidden = re.compile(r":class:.*\bdropdown\b")
    assert [label for label, options in solutions if not hidden.search(options)] == []


def test_has_a_solution_in_code(notebook: NotebookNode) -> None:
    inside, cells = False, 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            gates = re.findall(r"\{solution-(start|end)\}", cell.source)
            inside = gates[-1] == "start" if gates else inside
        else:
            cells += inside
    assert not inside, "a {solution-start} without its {solution-end}"
    assert cells >= 1


def test_ends_with_summary_exercises_and_references(notebook: NotebookNode) -> None:
    headings = re.findall(r"^## +(.*?)\s*$", prose(notebook), flags=re.MULTILINE)
    positions = [headings.index(title) for title in ("Summary", "Exercises", "References")]
    assert positions == sorted(positions)
    assert positions[-1] == len(headings) - 1


def test_cites_its_sources(notebook: NotebookNode) -> None:
    text = prose(notebook)
    assert re.search(r"\{cite:\w+\}`", text)
    assert "{bibliography}" in text


def test_links_to_the_glossary(notebook: NotebookNode) -> None:
    assert "{term}`" in prose(notebook)


def test_is_a_small_file(path: Path) -> None:
    assert path.stat().st_size < MAXIMUM_BYTES


def test_no_cell_hides_its_value_with_a_semicolon(notebook: NotebookNode) -> None:
    for cell in code(notebook):
        assert not cell.source.rstrip().endswith(";"), cell.source


def test_code_runs_as_plain_python(notebook: NotebookNode) -> None:
    for cell in code(notebook):
        ast.parse(cell.source)  # no % and no !: the same text works in a file


def test_names_no_folder_of_one_machine(notebook: NotebookNode) -> None:
    for cell in code(notebook):
        streams = [output.get("text", "") for output in cell.outputs]
        shown = [str(data(cell).get(kind, "")) for kind in ("text/plain", "text/markdown")]
        for text in [cell.source, *streams, *shown]:
            assert not ABSOLUTE_PATH.search(text), text


def test_a_picture_or_player_follows_every_widget(notebook: NotebookNode) -> None:
    cells = code(notebook)
    for position, cell in enumerate(cells):
        if WIDGET_CALL.search(cell.source):
            assert {"remove-output", "nbval-ignore-output"} <= set(tags(cell)), cell.source
        if "remove-output" in tags(cell):
            assert any(map(shows_without_a_kernel, cells[position + 1 : position + 3])), cell.source


def test_players_are_not_compared(notebook: NotebookNode) -> None:
    for cell in code(notebook):
        if "gan-player" in str(data(cell).get("text/html", "")):
            assert "nbval-ignore-output" in tags(cell), cell.source


def test_explorers_and_players_have_the_present_scripts(notebook):
    """After a change: tools/notebooks.py refresh."""
    for cell in code(notebook):
        page = data(cell).get("text/html", "")
        assert plotting.refreshed(live.refreshed(page)) == page, cell.source[:80]


def test_is_listed_in_the_table_of_contents_and_on_the_cover(path: Path) -> None:
    name = path.relative_to(ROOT).with_suffix("").as_posix()
    assert f"file: {name}\n" in (ROOT / "_toc.yml").read_text(encoding="utf-8")
    row = re.search(
        rf"^\|.*\({re.escape(path.relative_to(ROOT / 'book').as_posix())}\).*\| (.*) \|$",
        (ROOT / "book/index.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    assert row, "link the chapter in the map of book/index.md"
    seconds = RUN_TIME.search(nbformat.read(path, as_version=4).cells[0].source)[1]
    assert row[1] == f"{seconds} s"


def test_imports_only_what_the_package_needs(notebook: NotebookNode) -> None:
    third_party = (
        "gan_tutorial torch torchvision torchmetrics torch_fidelity safetensors numpy scipy"
        " matplotlib PIL tqdm onnx onnxruntime IPython"
    )
    programs = {
        path.stem for path in (ROOT / "book").glob("[!_]*/*.py")
    }  # they stand beside notebooks
    allowed = {*third_party.split(), *programs, *sys.stdlib_module_names}
    for cell in code(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed


def test_the_cover_shows_the_picture_of_the_training_chapter() -> None:
    training = nbformat.read(ROOT / "book" / "first-gan" / "training-loop.ipynb", as_version=4)
    name = "training-loop-samples"
    (cell,) = [
        c
        for c in code(training)
        if c.metadata.get("mystnb", {}).get("figure", {}).get("name") == name
    ]
    stored = base64.b64decode(data(cell)["image/png"])
    assert (ROOT / "book" / "_static" / "hero.png").read_bytes() == stored, (
        f"store the picture {name} of the training chapter as book/_static/hero.png, and look at it"
    )
