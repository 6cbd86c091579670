"""What chapters claim of stored records holds, and fails when two arms are exchanged.

An assertion that cannot fail says nothing. Here the cells that read a record and assert something
of it run with the record, and pass; then with two of its arms exchanged, and every assertion that
carries the claim must fail, without help from the others.
"""

import ast
import copy
import math
import re
from functools import reduce
from pathlib import Path

import nbformat
import pytest

from gan_tutorial import records

BOOK = Path(__file__).resolve().parent.parent / "book"
RECIPE = (
    'record = records.load("recipe")',
    "def p_value",
    "corrected = holm(p)",
    "mlp, conv, spectral, rates, average",
    "assert median[mlp]",
)
CHOICE = (
    "def p_value",
    'choice = records.load("choice")',
    "hinge, cheap, grouped = ",
    "for stop in range",
)
PRESETS = (
    "def p_value",
    'minute = records.load("presets")',
    "compared, ratio = ",
    'max(fd_in_floors["digits"])',
)
GAP_AND_FD = ('record = records.load("small")', "assert gap_of")
STARTS = ('record = records.load("small")', "begun = {}", "assert fine.max()")
TESTED = (*STARTS, "corrected = records.holm", "assert corrected[name]")
VAE = ("MEASURES = ", "def lead", "assert max(gan_fds) < min(vae_fds) / 4")
BETA = (*VAE, "beta_runs = ", 'assert min(in_use["0.25"])')
STACKED = ('thousand = records.load("stacked")', "hinge = [found")
PLANE = ("ring, grid = ", 'record = records.load("plane")', "lost = [count < 4")
SPEED = ('record = records.load("speed")', "gains = {}", "exact = {")
GANS = ("runs", "GAN"), ("runs", "VAE")
FLOW = ("unit, runs = record", "KEYS = (")
TIME = (*FLOW, 'assert falls["flow"]')
GAME = ("unit, runs = record", 'students, games = record["students"]', "after, alone, longer = (")
ENLARGER = ('record = records.load("enlarger")', 'assert max(error["squared"])')
FEW = ("def p_value", "questions = {", 'assert corrected["augmentation, nothing"]')
ODD = ("areas = {}", 'logit, nearest = mean["D')
FOUND = ("attacks = {}", "found = {name: values[:, 0]")
EACH = "*"


def of_ring(objective, regulariser):
    """Return the path to the runs of one entry of the table of plane.json."""
    wanted = {"mixture": "ring", "objective": objective, "regulariser": regulariser}
    table = records.load("plane")["table"]
    place = [wanted.items() <= entry.items() for entry in table].index(True)
    return "table", place, "runs"


def of_recipe(name):
    """Return the path to the runs of one rung of recipe.json."""
    return "recipes", name, "runs"


CLAIMS = {
    # notebook, record, what marks the cells that are run, the two arms to exchange, and the
    # assertions that carry the claim in the name, one or more
    "convolutions divide FD by more than ten": (
        "improve/recipe", "recipe", RECIPE, of_recipe("article's MLP"), of_recipe("convolutions"),
        "median[mlp] > 10 * median[conv]",
    ),
    "spectral norm changes nothing that can be seen": (
        "improve/recipe", "recipe", RECIPE, of_recipe("spectral norm, hinge"), of_recipe("labels"),
        "p[conv, spectral] > 0.2",
    ),
    "learning rates divide FD by four at least": (
        "improve/recipe", "recipe", RECIPE,
        of_recipe("spectral norm, hinge"), of_recipe("learning rates, no momentum"),
        "max(ends[rates]) < min(ends[spectral]) / 4",
    ),
    "with labels all seeds lie below all before": (
        "improve/recipe", "recipe", RECIPE, of_recipe("larger batch"), of_recipe("labels"),
        "max(ends[labels]) < min(ends[batch])",
    ),
    "early on the relativistic pair is nearer": (
        "improve/recipe", "choice", CHOICE, ("runs", 3, "curves", 1), ("runs", 4, "curves", 1),
        "at(30, dataset, name).max() < at(30, dataset, hinge).min()",
    ),
    "with the minibatch standard deviation all are nearer in the middle of the run": (
        "improve/recipe", "choice", CHOICE, ("runs", 4, "curves", 1), ("runs", 5, "curves", 1),
        'fds["fashion", grouped][:, stop].max() < below',
    ),
    "one recipe is nearer to real digits than to real clothes": (
        "improve/recipe", "presets", PRESETS, ("runs", "digits"), ("runs", "fashion"),
        'max(fd_in_floors["digits"]) < min(fd_in_floors["fashion"])',
    ),
    "the minibatch standard deviation lowers the FD of clothes and raises their recall": (
        "improve/recipe", "presets", PRESETS, ("runs", "fashion"), ("without_groups", "fashion"),
        'ratio["fashion", "fd"] < 0.8', 'ratio["digits", "recall"] < 1.1 < ratio["fashion", "rec',
    ),
    "it raises the recall of digits": (
        "improve/recipe", "presets", PRESETS, ("runs", "digits"), ("without_groups", "digits"),
        '1 < ratio["digits", "recall"]',
    ),
    "shifts close the gap": (
        "improve/small-data", "small", GAP_AND_FD, ("runs", 0, "curves"), ("runs", 1, "curves"),
        'gap_of[100, "none"].min() > 3 * gap_of[100, "translation"].max()',
    ),
    "at 500 images shifts make FD worse": (
        "improve/small-data", "small", GAP_AND_FD, ("runs", 3, "curves"), ("runs", 4, "curves"),
        '(1.2 * median[500, "none"] < median[500, "translation"]).all()',
    ),
    "a warm start is ahead after 300 steps": (
        "improve/small-data", "small", STARTS, ("starts", "from scratch"), ("starts", "warm start"),
        'fine.max() < begun["from scratch"].min()',
    ),
    "with 100 images the gain by shifts stands; that by all of DiffAugment would not": (
        "improve/small-data", "small", TESTED,
        ("runs", 1, "curves"), ("runs", 2, "curves"),
        "corrected[name] < 0.05",
    ),
    "the GAN wins on quality": (
        "beyond/vae", "vae", VAE, *GANS,
        "max(gan_fds) < min(vae_fds) / 4",
        "min(gan_values) > max(vae_values)",
    ),
    "the GAN's shapes vary more": (
        "beyond/vae", "vae", VAE, ("runs", "GAN", EACH, "spread"), ("runs", "VAE", EACH, "spread"),
        "max(vae_spreads) < min(gan_spreads) < real",
    ),
    "a larger beta silences coordinates": (
        "beyond/vae", "vae", BETA, ("runs", "beta 0.25"), ("runs", "beta 4"),
        'min(in_use["0.25"]) > max(in_use["1"])',
        'min(in_use["1"]) > max(in_use["4"])',
    ),
    "the GRU as a GAN adds more often than G": (
        "beyond/text", "text", ('record = records.load("text")', "assert 1.3 * max(independent)"),
        ("gan", "2 to 0.5"), ("gru gan",),
        "1.3 * max(independent) < min(gru_gan) < max(gru_gan) < 0.4",
    ),
    "phase shuffle lowers FD": (
        "beyond/audio", "audio", ('record = records.load("audio")',),
        ("runs", "phase shuffle"), ("runs", "no phase shuffle"),
        'max(fds["phase shuffle"]) < 0.75 * min(fds["no phase shuffle"])',
    ),
    "R1 keeps the modes of the Wasserstein loss": (
        "improve/mode-collapse", "plane", PLANE,
        of_ring("wasserstein", "none"), of_ring("wasserstein", "R1"),
        "min(modes[objective, name]) == 8",
    ),
    "hinge with spectral norm loses modes": (
        "improve/mode-collapse", "plane", PLANE,
        of_ring("hinge", "spectral norm"), of_ring("hinge", "none"),
        'sum(lost) == 4 if objective in ("hinge", "wasserstein")',
    ),
    "a small pair with R1 and R2 finds more of 1,000 modes than was published": (
        "improve/mode-collapse", "stacked", STACKED,
        ("tables", "a half", "relativistic, R1 + R2"), ("tables", "a half", "PacGAN 3"),
        "min(found[size, method]) > most",
    ),
    "with the smaller D spectral norm keeps fewer of 1,000 modes than R1": (
        "improve/mode-collapse", "stacked", STACKED,
        ("tables", "a quarter", "hinge, spectral norm"),
        ("tables", "a quarter", "non-saturating, R1"),
        'max(hinge[0]) < min(found["a quarter", "non-saturating, R1"])',
    ),
    "with labels permuted obedience is at chance, and FD larger": (
        "improve/conditional", "conditional",
        ('record = records.load("conditional")', "permuted = list(runs)[2]"),
        ("runs", "projection"), ("runs", "projection, labels permuted"),
        'max(values[permuted, "obedience"]) < 0.2',
        'min(values[permuted, "fd"]) > 2 * max(values["projection", "fd"])',
    ),
    "at equal time the GAN wins by FD and, in grey, by recall": (
        "beyond/flow", "flow", FLOW, *GANS,
        'max(scores["fd"]["GAN"]) < others / least',
        'min(grey["recall"]["GAN"]) > max(',
    ),
    "the flow has more recall than a VAE": (
        "beyond/flow", "flow", FLOW,
        ("runs", "flow", EACH, "binary", "recall"), ("runs", "VAE", EACH, "binary", "recall"),
        'max(recall["VAE"]) < min(*recall["GAN"], *recall["flow"])',
    ),
    "the VAE has the lowest recall in grey, too": (
        "beyond/flow", "flow", FLOW,
        ("runs", "flow", EACH, "scores", "recall"), ("runs", "VAE", EACH, "scores", "recall"),
        'max(grey["recall"]["VAE"]) < min(grey["recall"]["flow"])',
    ),
    "the flow gains most by time": (
        "beyond/flow", "flow", TIME, ("quarter", "flow"), ("quarter", "VAE"),
        'falls["flow"] > 1.5 * max(falls["GAN"], falls["VAE"])',
    ),
    "a game after a flow is ahead of as many steps from scratch": (
        "beyond/flow", "flow", GAME, ("students", "flow, then game"), ("students", "game alone"),
        "sum(a < b / 1.2 for a, b in zip(after, alone, strict=True)) == 4",
    ),
    "real digits alone teach more than as many samples": (
        "beyond/at-work", "at_work", FEW,
        ("classify", EACH, "8,000 real, alone"), ("classify", EACH, "GAN of all, alone"),
        "(real > drawn).all()",
    ),
    "the network without noise is nearer to the truth": (
        "beyond/enlarger", "enlarger", (ENLARGER[0], 'silent, noisy = ('),
        ("sets", "digits", "runs", "adversarial"), ("sets", "digits", "runs", "no noise"),
        'statistics.median(silent) < statistics.median(noisy)',
    ),
    "a hundredth of adversarial loss makes fewer misread digits": (
        "beyond/enlarger", "enlarger", (ENLARGER[0], "stands = {"),
        ("sets", "digits", "runs", "squared"), ("sets", "digits", "runs", "a = 0.01"),
        '(medians[0] < medians[1]) == (m == "misread")',
    ),
    "a twentieth of adversarial loss lowers FD": (
        "beyond/enlarger", "enlarger", ENLARGER,
        ("sets", "digits", "runs", "squared"), ("sets", "digits", "runs", "a = 0.05"),
        'both < {"digits": 0.4, "fashion": 0.8}[name] * plain',
    ),
    "a twentieth of adversarial loss costs little error": (
        "beyond/enlarger", "enlarger", ENLARGER,
        ("sets", "digits", "runs", "a = 0.05"), ("sets", "digits", "runs", "a = 0.3"),
        'max(error["a = 0.05"]) < 1.3 * min(error["squared"])',
    ),
    "the adversarial loss alone is the furthest from the truth": (
        "beyond/enlarger", "enlarger", ENLARGER,
        ("sets", "fashion", "runs", "adversarial"), ("sets", "fashion", "runs", "a = 0.05"),
        'min(error["adversarial"]) > 1.2 * max(error["a = 0.05"])',
    ),
    "an honest GAN loses against augmentation": (
        "beyond/at-work", "at_work", FEW,
        ("classify", EACH, "augmentation"), ("classify", EACH, "GAN of the 100"),
        '(runs["GAN of the 100"] < runs["augmentation"]).all()',
    ),
    "a GAN of all digits is ahead of augmentation": (
        "beyond/at-work", "at_work", FEW,
        ("classify", EACH, "augmentation"), ("classify", EACH, "GAN of all"),
        'runs["GAN of all"].mean() > runs["augmentation"].mean() + 0.01',
    ),
    "inverting G is behind the nearest image": (
        "beyond/at-work", "at_work", ODD,
        ("anomalies", EACH, "inversion of G"), ("anomalies", EACH, "nearest image"),
        '(mean["inversion of G"] < nearest).all()',
    ),
    "D finds members among few digits only": (
        "beyond/at-work", "at_work", FOUND, ("members", "500"), ("members", "8000"),
        'found["500", logit].min() > 0.65',
        '(found["8000", logit] - 0.5).abs().max() < 0.05',
    ),
    "D tells more than samples": (
        "beyond/at-work", "at_work", FOUND,
        ("members", "500", EACH, "D's logit"), ("members", "500", EACH, "nearest sample"),
        'found["500", logit].min() > 0.65',
        '0.52 < found["500", sample].min() <= found["500", sample].max() < 0.6',
    ),
    "compiling loses on top of the others": (
        "ship/speed", "speed", SPEED,
        ("pairs", "MLP", "together", "bf16"), ("pairs", "MLP", "together", "compiled"),
        'result["together"]["compiled"] < result["together"]["bf16"]',
    ),
    "compiling alone loses": (
        "ship/speed", "speed", SPEED,
        ("pairs", "MLP", "usual"), ("pairs", "MLP", "alone", "compiled"),
        'result["alone"]["compiled"] < 0.95 * result["usual"]',
    ),
}  # fmt: skip


def exchange(record, one, other):
    """Exchange the values at two paths of a record; EACH is every place of a list, in both."""
    if EACH in one:
        place = one.index(EACH)
        for number in range(len(reduce(lambda part, key: part[key], one[:place], record))):
            numbered = ((*path[:place], number, *path[place + 1 :]) for path in (one, other))
            exchange(record, *numbered)
        return
    places = [reduce(lambda part, key: part[key], path[:-1], record) for path in (one, other)]
    first, second = places
    first[one[-1]], second[other[-1]] = second[other[-1]], first[one[-1]]


def cells(notebook, marks):
    """Return the source of the first code cell, and of the one with each mark."""
    stored = nbformat.read(BOOK / f"{notebook}.ipynb", as_version=4).cells
    sources = [cell.source for cell in stored if cell.cell_type == "code"]
    chosen = [sources[0]]
    for mark in marks:
        (source,) = (source for source in sources if mark in source)
        chosen.append(source)
    return chosen


def alone(sources, text):
    """Compile cells in which only the assertion with this text, of which there is one, can fail."""
    trees, kept = [ast.parse(source) for source in sources], 0
    for source, tree in zip(sources, trees, strict=True):
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                if text in ast.get_source_segment(source, node):
                    kept, node.msg = kept + 1, ast.Constant(text)
                else:
                    node.test = ast.Constant(True)
    assert kept == 1, f"{kept} assertions with {text}"
    return [compile(ast.fix_missing_locations(tree), "cell", "exec") for tree in trees]


def run(sources, record):
    """Run cells one after the other."""
    names = {"record": record, "floor": 1.0, "last": math.inf}  # from cells that are not run
    for source in sources:
        exec(source, names)


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_holds_and_can_fail(claim, monkeypatch):
    notebook, name, marks, one, other, *texts = CLAIMS[claim]
    load = records.load
    record, changed = load(name), copy.deepcopy(load(name))
    exchange(changed, one, other)
    sources = cells(notebook, marks)
    run(sources, record)
    monkeypatch.setattr(records, "load", lambda n: changed if n == name else load(n))
    assert texts
    for text in texts:
        only = alone(sources, text)
        with pytest.raises(AssertionError, match=re.escape(text)):
            run(only, changed)
