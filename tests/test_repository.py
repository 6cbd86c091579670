"""The repository: pinned packages, working commands, valid links, clean files."""

import importlib.metadata
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from unittest import mock

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pybtex.database import parse_file

ROOT = Path(__file__).resolve().parent.parent
UNPINNED = ("nvidia-", "cuda-", "triton")  # depend on the build of PyTorch
BINARY = {".npz", ".png", ".safetensors", ".webp", ".gz", ".ico"}
MAXIMUM_BYTES = 8_000_000


def tracked() -> list[Path]:
    """Return the files that git tracks; skip the test without git."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("this copy is not a clone")
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]


def pins(name: str = "requirements.txt") -> dict[str, str]:
    """Return the version of each package in a requirements file and in those that it includes."""
    found = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        text = line.split("#")[0].strip()
        if text.startswith("-r "):
            found |= pins(text.removeprefix("-r "))
        elif text:
            name, equals, version = text.partition("==")
            assert equals, f"{text} is not pinned"
            found[canonicalize_name(name.partition("[")[0])] = version
    return found


def test_the_pinned_versions_are_installed() -> None:
    for name, version in pins().items():
        assert importlib.metadata.version(name) == version, f"{name}: run make again"


@pytest.mark.parametrize("part", ["requirements.txt", "requirements-book.txt"])
def test_requirements_are_complete(part: str) -> None:
    """What a pinned package needs on this machine is pinned in the same file."""
    known = pins(part)
    for name in known:
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                other = canonicalize_name(needed.name)
                assert other in known or other.startswith(UNPINNED), f"{name} needs {text}"


@pytest.mark.parametrize("part", ["tensorflow", "ray", "container"])
def test_the_extras_are_pinned_in_the_versions_of_the_book(part: str) -> None:
    book, extra = pins(), pins(f"requirements-{part}.txt")
    assert len(extra) > 10
    assert {
        name: version for name, version in extra.items() if book.get(name, version) != version
    } == {}


def test_the_pinned_versions_are_in_the_ranges_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for text in project["dependencies"]:
        needed = Requirement(text)
        assert needed.specifier.contains(pins()[canonicalize_name(needed.name)]), text


def test_the_pages_need_no_pytorch() -> None:
    """Together with the tests above: no package of the pages installs PyTorch."""
    assert "torch" in pins()
    assert not {"torch", "numpy", "gan-tutorial"} & pins("requirements-book.txt").keys()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^book: \$\(PAGES\) ##", makefile, flags=re.MULTILINE)
    assert re.search(r"^\$\(PAGES\): requirements-book.txt$", makefile, flags=re.MULTILINE)


def test_every_command_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    assert {"book", "test", "notebooks", "lab", "bench", "clean"} <= targets
    for page in ("README.md", "book/index.md"):
        named = set(re.findall(r"`make ([a-z]+)", (ROOT / page).read_text(encoding="utf-8")))
        assert named <= targets


@pytest.mark.parametrize(
    "script", sorted((ROOT / "benchmarks").glob("[a-z]*.py")), ids=lambda path: path.stem
)
def test_a_benchmark_starts_and_says_how_to_run_less(script: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with mock.patch.dict(os.environ), pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
    assert "--out" in capsys.readouterr().out


def test_kernels_of_the_lab_spin_as_long_as_the_package() -> None:
    package = (ROOT / "gan_tutorial/__init__.py").read_text(encoding="utf-8")
    (count,) = re.findall(r'"GOMP_SPINCOUNT", "(\d+)"', package)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"\nlab: export GOMP_SPINCOUNT ?= {count}\n" in makefile


def test_an_unsupported_python_is_refused_with_advice(tmp_path: Path) -> None:
    old = tmp_path / "python"
    script = '#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.9.1"\n[ "$1" = -V ]\n'
    old.write_text(script, encoding="utf-8")
    old.chmod(0o755)
    for name in ("Makefile", "requirements-book.txt", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    command = ["make", "book", f"PYTHON={old}"]
    outer = ("MAKEFLAGS", "MAKELEVEL")  # of a make that runs this test
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    refused = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert "needs Python 3.11, 3.12 or 3.13" in refused.stderr
    assert "is Python 3.9.1" in refused.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_table_of_contents_lists_every_page_once() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    pages = [path for pattern in ("*.ipynb", "*.md") for path in (ROOT / "book").rglob(pattern)]
    present = [
        path.relative_to(ROOT).with_suffix("").as_posix()
        for path in pages
        if ".ipynb_checkpoints" not in path.parts
    ]
    assert sorted([toc["root"], *chapters]) == sorted(present)


def test_references_are_complete_and_in_order() -> None:
    entries = parse_file(ROOT / "book" / "references.bib").entries
    keys = list(entries)
    assert keys == sorted(keys)
    for key, entry in entries.items():
        assert entry.persons.get("author"), key
        assert {"title", "year"} <= set(entry.fields), key
        assert entry.fields["year"] in key, key
        assert {"booktitle", "journal", "eprint", "institution", "url"} & set(entry.fields), key


@pytest.mark.parametrize("page", ["README.md"])
def test_links_between_files_resolve(page: str) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text(encoding="utf-8")):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("workflow", ["tests", "pages", "links"])
def test_workflows_are_well_formed(workflow: str) -> None:
    path = ROOT / ".github" / "workflows" / f"{workflow}.yml"
    parsed = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert parsed[True]  # YAML 1.1 reads the key `on` as true
    for job in parsed["jobs"].values():
        assert job["runs-on"]
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])


def test_ci_runs_what_the_readme_says() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert re.search(r"^make test$", script.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_nothing_built_is_tracked() -> None:
    unwanted = re.compile(
        r"(^|/)(__pycache__|_build|\.venv|\.ipynb_checkpoints|\.coverage|runs)(/|$)|\.pyc$|\.part\."
    )
    names = [path.relative_to(ROOT).as_posix() for path in tracked()]
    assert [name for name in names if unwanted.search(name)] == []


def test_no_file_is_large() -> None:
    assert [str(path) for path in tracked() if path.stat().st_size > MAXIMUM_BYTES] == []


def test_texts_are_clean() -> None:
    """UTF-8, one newline at the end, no trailing spaces, no conflict markers, no local paths."""
    machine = re.compile(r"/(?:root|home/\w+|Users/\w+)/\w")
    for path in tracked():
        if path.suffix in BINARY:
            continue
        text = path.read_text(encoding="utf-8")
        assert not text or (text.endswith("\n") and not text.endswith("\n\n")), path
        assert not re.search(r"^(<{7}|>{7}) ", text, flags=re.MULTILINE), path
        assert not machine.search(text), path
        if path.suffix in {".py", ".toml", ".yml", ".css", ".js", ".bib", ".txt"}:
            assert not re.search(r"[ \t]+$", text, flags=re.MULTILINE), path
