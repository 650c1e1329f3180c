"""The autoencoder: 128×128 pictures to 16×16×4 latents and back.

    python vae.py --minutes 30            train (goes on where it stopped)
    python vae.py --latents               write data/latents.npz from the trained model

Colour is what a small autoencoder loses first, so the loss also compares pictures averaged over 2, 4 and 8 pixels, and
a linear read-out of the latent must give the averaged colours. The posterior starts narrow (log variance -6).
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from common import DATA, RUNS, Clock, learning_rate, optimizers, save, set_rate
from grids import save_grid
from torch import Tensor, nn
from torch.nn import functional as F

from limner.models.vae.kl import AutoencoderKL, KLConfig

CONFIG = KLConfig(ch=16, ch_mult=(1, 2, 4, 8), num_res_blocks=1, norm_groups=4)
STYLES = ("3d", "flat")
STAYS_WITH_ADAMW = ("encoder.conv_in", "decoder.conv_out", "quant_conv", "post_quant_conv")


def build() -> AutoencoderKL:
    """A fresh autoencoder whose posterior is narrow."""
    vae = AutoencoderKL(CONFIG)
    with torch.no_grad():
        vae.quant_conv.weight.copy_(torch.eye(8)[:, :, None, None])
        vae.quant_conv.bias.zero_()
        vae.post_quant_conv.weight.copy_(torch.eye(4)[:, :, None, None])
        vae.post_quant_conv.bias.zero_()
        vae.encoder.conv_out.weight[4:].mul_(0.1)
        vae.encoder.conv_out.bias[4:].fill_(-6.0)
        for block in vae.modules():  # every block starts as the identity, nearly
            if hasattr(block, "conv2"):
                block.conv2.weight.mul_(0.1)
                block.conv2.bias.zero_()
    return vae


class Pictures:
    """The rendered pictures: those the diffusion model will draw twice as often as all others."""

    def __init__(self) -> None:
        self.pixels = np.load(DATA / "pictures.npy", mmap_mode="r")
        index = json.loads((DATA / "index.json").read_text("utf8"))
        self.drawn = [n for n, e in enumerate(index) if e["concept"] and e["style"] in STYLES]
        self.others = [n for n in range(len(index)) if n not in set(self.drawn)]

    def batch(self, size: int) -> Tensor:
        """(size, 3, 128, 128) in -1..1, some mirrored, all shifted by up to 8 pixels."""
        out = []
        for _ in range(size):
            n = random.choice(self.drawn if random.random() < 0.67 else self.others)
            dy, dx = random.randint(-8, 8), random.randint(-8, 8)
            page = np.pad(self.pixels[n], ((8, 8), (8, 8), (0, 0)), constant_values=255)
            page = page[8 + dy : 136 + dy, 8 + dx : 136 + dx]
            out.append(page[:, ::-1] if random.random() < 0.5 else page)
        return scaled(np.stack(out))


def scaled(pixels: np.ndarray) -> Tensor:
    """(batch, height, width, 3) uint8 → (batch, 3, height, width) in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences to the next pixel, across and down."""
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(got: Tensor, wanted: Tensor) -> Tensor:
    """Absolute error at four scales, squared error of the colours, absolute error of the edges."""
    loss = F.l1_loss(got, wanted) + F.mse_loss(got, wanted)
    for size, weight in ((2, 0.5), (4, 0.5), (8, 1.0)):
        small, small_wanted = F.avg_pool2d(got, size), F.avg_pool2d(wanted, size)
        loss = loss + weight * (F.l1_loss(small, small_wanted) + F.mse_loss(small, small_wanted))
    for a, b in zip(edges(got), edges(wanted), strict=True):
        loss = loss + 0.5 * F.l1_loss(a, b)
    return loss


def psnr(got: Tensor, wanted: Tensor) -> float:
    """Decibels, for values 2 apart at most; the mean over pictures."""
    error = (got.clamp(-1, 1) - wanted).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(4 / error)).mean())


@torch.no_grad()
def look(vae: AutoencoderKL, pictures: Pictures, path: Path) -> float:
    """Write pictures above their reconstructions; the PSNR of the first 96 drawn ones, in dB."""
    wanted = scaled(pictures.pixels[pictures.drawn[:: len(pictures.drawn) // 96][:96]])
    with torch.autocast("cpu", torch.bfloat16):
        got = torch.cat([vae(x).float() for x in wanted.split(16)])
    rows = [part for n in range(0, 48, 16) for part in (wanted[n : n + 16], got[n : n + 16])]
    save_grid(torch.cat(rows), 16, path)
    return psnr(got, wanted)


def train(minutes: float, rate: float, size: int, muon: bool, name: str) -> None:
    """Train by the clock; a line a minute, a checkpoint and a grid every four."""
    pictures, vae, colours = Pictures(), build(), nn.Conv2d(4, 3, 1)
    found = optimizers((vae, colours), rate, muon, STAYS_WITH_ADAMW)
    path, step, clock = RUNS / f"{name}.pt", 0, Clock(minutes)
    if path.exists():
        old = torch.load(path)
        vae.load_state_dict(old["vae"])
        colours.load_state_dict(old["colours"])
        for optimizer, state in zip(found, old["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        step, clock = old["step"], Clock(minutes, old["used"])

    def keep() -> None:
        states = [optimizer.state_dict() for optimizer in found]
        parts = {"vae": vae.state_dict(), "colours": colours.state_dict(), "optimizers": states}
        save(path, **parts, step=step, used=clock.used)
        decibels = look(vae, pictures, RUNS / f"{name}.png")
        print(f"step {step}  {clock.used / 60:.1f} min  PSNR {decibels:.2f} dB", flush=True)

    total, count, spoken, kept = 0.0, 0, clock.used, clock.used
    while clock.fraction < 1:
        set_rate(found, learning_rate(rate, step, clock.fraction))
        x = pictures.batch(size)
        with torch.autocast("cpu", torch.bfloat16):
            mean, log_variance = vae.moments(x)
            mean, log_variance = mean.float(), log_variance.float()
            got = vae.decode(mean + torch.randn_like(mean) * (0.5 * log_variance).exp()).float()
            readout = colours(mean).float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2, 3)).mean()
        picture = reconstruction_loss(got, x)
        loss = picture + 0.5 * F.mse_loss(readout, F.avg_pool2d(x, 8)) + 2e-6 * divergence
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for optimizer in found:
            optimizer.step()
            optimizer.zero_grad()
        step, total, count = step + 1, total + picture.item(), count + 1
        if clock.used - spoken > 30:
            speed = count * size / (clock.used - spoken)
            print(
                f"step {step}  {clock.used / 60:.1f} min  loss {total / count:.4f}  {speed:.1f} pictures/s", flush=True
            )
            total, count, spoken = 0.0, 0, clock.used
        if clock.used - kept > 240:
            keep()
            kept = clock.used
    keep()


@torch.no_grad()
def fold(vae: AutoencoderKL, mean: Tensor, deviation: Tensor, scale: float = 0.18215) -> None:
    """Change the 1×1 convolutions so that latents times Stable Diffusion's scale have mean 0 and deviation 1.

    mean, deviation: (4,) of the latents as the network gives them now.
    """
    factor = 1 / (deviation * scale)  # z' = (z - mean) · factor
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.bias[:4].copy_((quant.bias[:4] - mean) * factor)
    quant.weight[:4].mul_(factor[:, None, None, None])
    quant.bias[4:].add_(2 * factor.log())  # the log variance follows
    post.bias.add_(post.weight[:, :, 0, 0] @ mean)  # z = z' / factor + mean
    post.weight.div_(factor[None, :, None, None])


@torch.no_grad()
def latents(name: str) -> None:
    """Encode the pictures to be drawn, fold the statistics, write data/latents.npz and data/vae.pt."""
    vae = build()
    vae.load_state_dict(torch.load(RUNS / f"{name}.pt")["vae"])
    index = json.loads((DATA / "index.json").read_text("utf8"))
    pixels = np.load(DATA / "pictures.npy", mmap_mode="r")
    drawn = [n for n, e in enumerate(index) if e["concept"] and e["style"] in (*STYLES, "cartoon")]
    x = scaled(pixels[drawn])
    raw = torch.cat([vae.encode(part) for part in x.split(32)])
    fold(vae, raw.mean(dim=(0, 2, 3)), raw.std(dim=(0, 2, 3)))
    folded = torch.cat([vae.encode(part) for part in x.split(32)]) * 0.18215
    got = torch.cat([vae.decode(part / 0.18215) for part in folded.split(32)])
    style = np.array([index[n]["style"] for n in drawn])
    for wanted in (*STYLES, "cartoon"):
        chosen = torch.from_numpy(style == wanted)
        print(f"{wanted}: {int(chosen.sum())} pictures, PSNR {psnr(got[chosen], x[chosen]):.2f} dB")
    print(f"latents: mean {folded.mean():.4f}, deviation {folded.std():.4f}")
    np.savez(DATA / "latents.npz", latents=folded.numpy(), numbers=np.array(drawn))
    torch.save(vae.state_dict(), DATA / "vae.pt")


def main() -> None:
    """Train, or write the latents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--adamw", action="store_true", help="AdamW for all weights")
    parser.add_argument("--name", default="vae")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--latents", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.latents:
        latents(args.name)
    else:
        train(args.minutes, args.rate, args.batch, not args.adamw, args.name)


if __name__ == "__main__":
    main()
