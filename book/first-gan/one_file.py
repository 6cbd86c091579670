"""A GAN that draws digits: ``python one_file.py digits-train.npz samples.png``."""

import copy
import sys

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import softplus

STEPS, BATCH, GROUP = 2200, 128, 8  # GROUP divides BATCH
LATENT, W = 64, 16  # W: channels of 14 × 14 pixels
LR_G, LR_D, LR_END, GAMMA, SIGMA, EMA = 6e-3, 4e-3, 0.2, 0.2, 0.1, 0.99


class Generator(nn.Module):
    """From z (N, 64) and labels (N,) to images (N, 1, 28, 28) in [-1, 1]."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, LATENT)
        self.layers = nn.Sequential(
            nn.Linear(2 * LATENT, 98 * W, bias=False), nn.Unflatten(1, (2 * W, 7, 7)),
            nn.BatchNorm2d(2 * W), nn.ReLU(),
            nn.Conv2d(2 * W, 2 * W, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * W), nn.ReLU(),
            nn.ConvTranspose2d(2 * W, W, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(W), nn.ReLU(),
            nn.ConvTranspose2d(W, 1, 4, stride=2, padding=1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, z, labels):
        """Return images."""
        return self.layers(torch.cat([z, self.embedding(labels)], dim=1))


class MinibatchStd(nn.Module):
    """Append to features how much they vary in a group: (N, F) to (N, F + 1)."""

    def forward(self, features):
        """Return the features, and their group's mean standard deviation."""
        groups = features.unflatten(0, (-1, GROUP))
        deviations = groups - groups.mean(1, keepdim=True)
        std = (deviations.square().mean(1) + 1e-8).sqrt().mean(1)
        return torch.cat([features, std.repeat_interleave(GROUP)[:, None]], dim=1)


class Discriminator(nn.Module):
    """From images and labels to logits (N,)."""

    def __init__(self):
        super().__init__()
        self.last, self.embedding = nn.Linear(8 * W, 1), nn.Embedding(10, 8 * W)
        self.layers = nn.Sequential(
            nn.Conv2d(1, W, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(W, 2 * W, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * W, 4 * W, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Flatten(), MinibatchStd(),
            nn.Linear(36 * W + 1, 8 * W), nn.LeakyReLU(0.2),
        )  # fmt: skip

    def forward(self, images, labels):
        """Return logits."""
        features = self.layers(images)
        of_label = (self.embedding(labels) * features).sum(1)
        return self.last(features).squeeze(1) + of_label


def train(path, steps=STEPS, seed=0):
    """Return G, D, and the moving average of G after so many of the ``STEPS`` steps."""
    with np.load(path) as file:
        pixels, classes = (
            torch.from_numpy(file[name]) for name in ("images", "labels")
        )
    torch.manual_seed(seed)
    G = Generator().to(memory_format=torch.channels_last)  # faster convolutions
    D = Discriminator().to(memory_format=torch.channels_last)
    average = copy.deepcopy(G).eval().requires_grad_(False)
    opt_G = torch.optim.Adam(G.parameters(), LR_G, (0.0, 0.99), fused=True)
    opt_D = torch.optim.Adam(D.parameters(), LR_D, (0.0, 0.99), fused=True)
    for step in range(steps):
        mixed = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
        rng = torch.Generator().manual_seed(int(mixed) % 2**63)
        for optimiser, lr in ((opt_G, LR_G), (opt_D, LR_D)):
            optimiser.param_groups[0]["lr"] = lr * (1 - (1 - LR_END) * step / STEPS)
        chosen = torch.randint(len(pixels), (BATCH,), generator=rng)
        real, labels = pixels[chosen].unsqueeze(1) / 127.5 - 1, classes[chosen].long()
        fake = G(torch.randn(BATCH, LATENT, generator=rng), labels)

        both = torch.cat([real, fake.detach()])
        real_logits, fake_logits = D(both, labels.repeat(2)).chunk(2)
        d_loss = softplus(fake_logits - real_logits).mean()
        for images, logits in ((real, real_logits), (fake.detach(), fake_logits)):
            noise = SIGMA * torch.randn(images.shape, generator=rng)
            slopes = (D(images + noise, labels) - logits) / SIGMA  # for R1, R2
            d_loss = d_loss + GAMMA / 2 * slopes.square().mean()
        opt_D.zero_grad()
        d_loss.backward()
        opt_D.step()

        with torch.no_grad():
            real_logits = D(real, labels)
        g_loss = softplus(real_logits - D(fake, labels)).mean()
        opt_G.zero_grad()
        g_loss.backward(inputs=list(G.parameters()))
        opt_G.step()

        with torch.no_grad():
            for mean, value in zip(average.parameters(), G.parameters(), strict=True):
                mean.lerp_(value, 1 - EMA)
            for mean, value in zip(average.buffers(), G.buffers(), strict=True):
                mean.copy_(value)
        if step % 100 == 0:
            print(f"step {step}: losses {d_loss.item():.2f} and {g_loss.item():.2f}")
    return G, D, average


if __name__ == "__main__":
    *_, G = train(sys.argv[1])
    digits = G(torch.randn(100, LATENT), torch.arange(100) % 10).view(10, 10, 28, 28)
    rows = digits.permute(0, 2, 1, 3).reshape(280, 280)
    Image.fromarray((rows * 127.5 + 127.5).byte().numpy()).save(sys.argv[2])
