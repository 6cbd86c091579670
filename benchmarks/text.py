"""Sums such as 12+7=19, by two networks of the same size, each trained in two ways.

The chapter's generator chooses all letters at once, a GRU one after another. Each is trained as a
GAN and by likelihood: the GRU by its exact value, the generator by a lower bound, as the decoder
of a VAE. The chapter's GAN is trained with a temperature that falls, and with two constant ones;
what was trained by likelihood is sampled with several factors of the Gumbel noise. A program
judges 2,000 strings of each, and of three baselines.

Apart from what their names say, two things differ: the first step of every GAN has the temperature
1, and the chapter's generator is judged with BatchNorm statistics of its own samples as a GAN, with
those of its training as a decoder. The nats of the bound are of one batch, those of the GRU of a
whole split.
"""

import statistics
from dataclasses import replace
from typing import Annotated

import torch
import typer
from _sweep import DEVICE, Out, sweep
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from gan_tutorial import networks, records, runtime, sampling, training
from gan_tutorial.beyond import text, vae

COUNT = 2000
SCHEDULES = {"2 to 0.5": (2.0, 0.5), "2": (2.0, 2.0), "0.5": (0.5, 0.5)}  # start and end
SAMPLED_AT = (1.0, 0.8, 0.6, 0.4)
LETTERS = len(text.ALPHABET)


class RecurrentGenerator(networks.Generator):
    """The GRU as a generator: z is Gumbel noise alone, and each choice is the next input.

    Attributes:
        temperature: of the backward pass; see ``text.choose``.
    """

    def __init__(self) -> None:
        super().__init__(text.LENGTH * LETTERS, text.SHAPE)
        self.model, self.temperature = text.Recurrent(), 1.0

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return strings, one-hot (N, LENGTH, letters), for latent vectors (N, latent_dim)."""
        table = self.model.embedding.weight  # (letters + 1, 16); the last row starts a string
        letter, state, choices = table[-1].expand(len(z), -1), None, []
        for noise in text.gumbel(z).unflatten(1, text.SHAPE).unbind(dim=1):  # (N, letters)
            output, state = self.model.memory(letter.unsqueeze(1), state)
            logits = self.model.last(output.squeeze(1))  # (N, letters)
            choices.append(text.choose(logits, noise, self.temperature))
            letter = choices[-1] @ table[:-1]  # (N, 16), with a gradient to the choice
        return torch.stack(choices, dim=1)


def train_gan(
    network: type[networks.Generator], temperatures: tuple[float, float], steps: int, seed: int
) -> list[tuple[int, text.Report]]:
    """Train a generator as a GAN; return (step, report) four times on the way."""
    strings = text.sums()
    config = replace(text.SUMS_CONFIG, steps=steps, seed=seed)
    torch.manual_seed(seed)
    G, D = network(), networks.MLPDiscriminator(text.SHAPE, (256, 256))
    state = training.TrainState.init(G, D, config, DEVICE)
    curve = []
    loop = training.train(state, text.StringSet(text.encode(strings)), config, graph=False)
    for log in loop:  # without a graph, which would keep one temperature
        state.G.temperature = text.schedule(log.step, steps, *temperatures)
        if log.step % (steps // 4) == 0:
            G = sampling.recalibrate_batchnorm(state.G_ema)
            samples = sampling.generate(G, COUNT, seed=1000 + seed)
            curve.append((log.step, text.report(text.decode(samples), strings)))
    return curve


def train_bound(steps: int, seed: int, batch_size: int = 128, lr: float = 4e-3) -> dict:
    """Train the chapter's generator by a bound on the likelihood; return it and the reports.

    An encoder guesses the plan of a string, as in a VAE; it is not needed afterwards. Adam's rate
    decays to 0 along a cosine, as the GRU's does.
    """
    letters = text.encode(text.sums()).to(DEVICE)
    torch.manual_seed(seed)
    G = text.StringGenerator().to(DEVICE)
    body = networks.MLPDiscriminator(text.SHAPE, (256, 256)).layers
    encoder = nn.Sequential(body, nn.Linear(256, 2 * G.plan)).to(DEVICE)
    optimiser = torch.optim.Adam([*G.parameters(), *encoder.parameters()], lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        rng = runtime.step_rng(seed, step, DEVICE)
        x = letters[torch.randint(len(letters), (batch_size,), generator=rng, device=DEVICE)]
        q = vae.Gaussian(*encoder(one_hot(x, LETTERS).float()).chunk(2, dim=1))
        logits = G.layers(q.sample(rng)).unflatten(1, text.SHAPE)
        nats = cross_entropy(logits.transpose(1, 2), x, reduction="none").sum(1)
        loss = (nats + q.kl().sum(1)).mean()  # -ELBO, at least -log p(x)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        scheduler.step()
    z = sampling.latents(COUNT, G.latent_dim, seed=1000 + seed).to(DEVICE)
    with torch.no_grad():
        logits, noise = G.eval().logits(z), G.noise(z)
    pages = {at: text.decode((logits + at * noise).argmax(2)) for at in SAMPLED_AT}
    return {"nats": loss.item(), "reports": judge(pages)}


def judge(pages: dict[float, list[str]]) -> list[tuple[float, text.Report]]:
    """Return a report for each factor of the noise."""
    return [(at, text.report(page, text.sums())) for at, page in pages.items()]


def train_gru(steps: int, seed: int) -> dict:
    """Train the GRU; return the nats of both splits, and a report for each temperature."""
    train, test = (text.encode(text.sums(split)).to(DEVICE) for split in ("train", "test"))
    torch.manual_seed(seed)
    model = text.Recurrent().to(DEVICE)
    for _ in text.fit(model, train, steps, seed=seed):
        pass
    with torch.no_grad():
        nats = {"train": model.nats(train).mean().item(), "test": model.nats(test).mean().item()}
    z = sampling.latents(COUNT, len(text.ALPHABET) * text.LENGTH, seed=1000 + seed).to(DEVICE)
    pages = {at: text.decode(model.sample(z, at)) for at in SAMPLED_AT}
    return {"nats": nats, "reports": judge(pages)}


def baselines(seed: int) -> dict[str, text.Report]:
    """Return a report for each baseline."""
    pages = text.baselines(text.sums(), COUNT, seed)
    return {name: text.report(page, text.sums()) for name, page in pages.items()}


def main(
    seeds: Annotated[int, typer.Option(help="Runs of each variant.")] = 5,
    steps: Annotated[int, typer.Option(help="Steps of the GAN.")] = text.SUMS_CONFIG.steps,
    gru_steps: Annotated[int, typer.Option(help="Steps of the GRU.")] = 2000,
    out: Out = records.FOLDER / "text.json",
) -> None:
    """Measure, print a table, and save the record."""
    reports = [baselines(seed) for seed in range(seeds)]
    record = {
        "steps": steps,
        "gru_steps": gru_steps,
        "fields": text.Report._fields,
        "baselines": {name: [report[name] for report in reports] for name in reports[0]},
    }
    variants = {
        name: {"network": text.StringGenerator, "temperatures": t, "steps": steps}
        for name, t in SCHEDULES.items()
    }
    record["gan"] = sweep(train_gan, variants, range(seeds), DEVICE)
    fair = {"network": RecurrentGenerator, "temperatures": (2.0, 0.5), "steps": steps}
    record["gru gan"] = sweep(train_gan, {"gru": fair}, range(seeds), DEVICE)["gru"]
    record["bound"] = sweep(train_bound, {"mlp": {"steps": steps}}, range(seeds), DEVICE)["mlp"]
    record["gru"] = sweep(train_gru, {"gru": {"steps": gru_steps}}, range(seeds), DEVICE)["gru"]
    show(records.save(record, out, DEVICE))


def show(record: dict) -> None:
    """Print a table in percent: medians, and the range of the first two columns."""
    columns = f"{'valid':>17}{'true':>17}{'unseen':>8}{'novel':>8}{'distinct':>10}"
    print(f"{'percent: medians, and two ranges':34}{columns}")
    for name, reports in record["baselines"].items():
        show_row(name, reports)
    for name, curves in record["gan"].items():
        show_row(f"GAN, temperature {name}", [curve[-1][1] for curve in curves])
    show_row("GAN, the GRU", [curve[-1][1] for curve in record["gru gan"]])
    for key, network in (("bound", "the GAN's G"), ("gru", "GRU")):
        for i, factor in enumerate(SAMPLED_AT):
            reports = [run["reports"][i][1] for run in record[key]]
            show_row(f"likelihood, {network}, noise {factor}", reports)


def show_row(name: str, reports: list[text.Report]) -> None:
    """Print one row of the table."""
    row = f"{name:34}"
    for key, values in zip(text.Report._fields, zip(*reports, strict=True), strict=True):
        median, low, high = statistics.median(values), min(values), max(values)
        if key in ("valid", "true"):
            row += f"{median:7.1%}" + f" ({low:.0%}–{high:.0%})".rjust(10)
        else:
            row += f"{median:{10 if key == 'distinct' else 8}.1%}"
    print(row)


if __name__ == "__main__":
    typer.run(main)
