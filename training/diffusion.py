"""The UNet and the text encoder, trained together on cached latents.

    python diffusion.py --minutes 90      train (goes on where it stopped)
    python diffusion.py --look            only draw the grid of the sample prompts from the last checkpoint

v-prediction on Stable Diffusion's noise schedule. A caption is encoded once and used for several noisy copies of its
latent, at times spread evenly over the batch. Some captions are empty, for classifier-free guidance.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from captions import Subject, caption, subjects
from common import DATA, RUNS, Clock, Team, learning_rate, optimizers, save, set_rate
from grids import save_grid
from tokenizer import SIZE, encode
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from vae import build as build_vae

from limner.models.text.clip import CLIPText, CLIPTextConfig
from limner.models.unet import UNet, UNetConfig

UNET = UNetConfig(
    model_channels=64,
    channel_mult=(1, 2, 3),
    num_res_blocks=(1, 1, 1),
    transformer_depth=(0, 1, 1),
    transformer_depth_output=(0, 0, 1, 1, 1, 1),
    context_dim=256,
    num_heads=-1,
    num_head_channels=32,
)
TEXT = CLIPTextConfig(
    vocab_size=SIZE,
    hidden_size=256,
    intermediate_size=1024,
    num_hidden_layers=2,
    num_attention_heads=4,
    eos_token_id=SIZE - 1,
)
ALL_STYLES = ("3d", "flat", "cartoon")  # the order of data/latents.npz
STYLES = ("3d", "flat")  # those that are drawn
# From which fraction of the time on pictures are drawn how often. Recognition follows epochs: all things at first, then
# the common ones alone until they are clear, then the rest beside them.
PHASES = (
    (0.0, {"common": 1.0, "rare": 1.0, "recoloured": 0.5, "flat": 0.25}),
    (0.31, {"common": 1.0, "rare": 0.0, "recoloured": 0.15, "flat": 0.0}),
    (0.45, {"common": 1.0, "rare": 0.5, "recoloured": 0.25, "flat": 0.15}),
    (0.58, {"common": 1.0, "rare": 0.8, "recoloured": 0.3, "flat": 0.25}),
)
EMPTY = 0.1
SCALE = 0.18215
STAYS_WITH_ADAMW = ("input_blocks.0.0", "out.2", "text_model.embeddings")
PROMPTS = (
    "a red apple, 3d style", "a fox, 3d style", "a panda, 3d style", "an owl, 3d style", "a penguin, 3d style",
    "a cat, 3d style", "a dog, 3d style", "a sunflower, 3d style", "a cactus, 3d style", "a mushroom, 3d style",
    "a rocket, 3d style", "a hamburger, 3d style", "a red heart", "a yellow star", "the moon", "a house",
    "a red car", "a blue car", "a green tree", "a red rose", "a banana", "a slice of pizza", "a fish", "a butterfly",
    "a ladybug", "a frog", "a lion", "a unicorn", "a robot", "a ghost", "a pumpkin", "a snowman",
    "a balloon, flat style", "a fox, flat style", "a panda, flat style", "a rainbow", "a guitar", "a castle",
    "a birthday cake", "a blue apple",
)  # fmt: skip


def alphas() -> Tensor:
    """ᾱ of the 1,000 times of Stable Diffusion 1."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def build() -> tuple[UNet, CLIPText]:
    """Fresh networks: residual branches begin silent, token vectors larger than those of positions."""
    unet, text = UNet(UNET), CLIPText(TEXT)
    with torch.no_grad():
        for name, p in unet.named_parameters():
            if name.endswith(("out_layers.3.weight", "out_layers.3.bias", "proj_out.bias")) or name.startswith("out.2"):
                p.zero_()
            elif name.endswith("proj_out.weight"):
                p.mul_(0.1)
        nn.init.normal_(text.text_model.embeddings.token_embedding.weight, std=0.5)
        nn.init.normal_(text.text_model.embeddings.position_embedding.weight, std=0.1)
    return unet, text


def weight(subject: Subject, fraction: float) -> float:
    """How often a picture is drawn, in epochs an epoch, at a fraction of the time; flat ones by both their weights."""
    weights = [weights for start, weights in PHASES if start <= fraction][-1]
    return weights[subject.kind] * (weights["flat"] if subject.style == "flat" else 1.0)


class Data:
    """Latents in the model's scale and the ids of their captions."""

    def __init__(self, seed: int | None = None) -> None:
        self.latents = torch.from_numpy(np.load(DATA / "latents.npz")["latents"])
        self.tokenizer = Tokenizer.from_file(str(DATA / "tokenizer.json"))
        self.subjects = [s for s in subjects(ALL_STYLES) if s.style in STYLES]
        self.empty = encode(self.tokenizer, "")
        self.chance = random.Random(seed)
        self.fraction = 0.0  # of the time that training has

    def order(self) -> Iterator[Subject]:
        """Subjects for ever, each as often as its weight says and evenly spread."""
        while True:
            chosen = [s for s in self.subjects if self.chance.random() < weight(s, self.fraction)]
            self.chance.shuffle(chosen)
            yield from chosen

    def ids(self, subject: Subject) -> list[int]:
        """The row of ids of one of its captions, or of the empty one."""
        if self.chance.random() < EMPTY:
            return self.empty
        return encode(self.tokenizer, caption(subject, self.chance))


def loss_of(unet: UNet, text: CLIPText, ids: Tensor, latents: Tensor, copies: int, abar: Tensor) -> Tensor:
    """The squared error of v for `copies` noisy versions of each latent, at times spread over the batch.

    ids: (B, 77), latents: (B, 4, 16, 16).
    """
    count = len(ids) * copies
    times = ((torch.randperm(count) + torch.rand(count)) * (1000 / count)).long()
    a = abar[times].sqrt()[:, None, None, None]
    s = (1 - abar[times]).sqrt()[:, None, None, None]
    x = latents.repeat_interleave(copies, 0)
    noise = torch.randn_like(x)
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        context = text(ids).last.repeat_interleave(copies, 0)
        v = unet(a * x + s * noise, times, context)
    return (v.float() - (a * noise - s * x)).square().mean()


class Average:
    """An exponential average of parameters over roughly the last tenth of all steps."""

    def __init__(self, modules: tuple[nn.Module, ...]) -> None:
        self.modules = modules
        self.kept = [{k: v.detach().clone() for k, v in m.state_dict().items()} for m in modules]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after step number `step`."""
        for module, kept in zip(self.modules, self.kept, strict=True):
            now = module.state_dict()
            torch._foreach_lerp_(list(kept.values()), [now[k] for k in kept], max(1 / (1 + 0.1 * step), 0.002))


@torch.no_grad()
def sample(unet: UNet, text: CLIPText, ids: Tensor, empty: Tensor, steps: int, cfg: float, seed: int) -> Tensor:
    """Euler's method over evenly spaced times.

    ids: (B, 77), empty: (77,) → latents (B, 4, 16, 16) in the model's scale.
    """
    abar = alphas()
    times = torch.linspace(999, 0, steps)
    sigmas = torch.cat(((1 / abar[times.long()] - 1).sqrt(), torch.zeros(1)))
    x = torch.randn(len(ids), 4, 16, 16, generator=torch.Generator().manual_seed(seed)) * sigmas[0]
    with torch.autocast("cpu", torch.bfloat16):
        context = torch.cat((text(ids).last, text(empty[None]).last.expand(len(ids), -1, -1)))
        for number, moment in enumerate(times):
            sigma = sigmas[number]
            scale = 1 / (1 + sigma**2).sqrt()
            v = unet((x * scale).repeat(2, 1, 1, 1), moment.long().repeat(2 * len(ids)), context).float()
            with_text, without = (x * scale**2).repeat(2, 1, 1, 1).sub(v * sigma * scale).chunk(2)
            denoised = without + cfg * (with_text - without)
            x = x + (x - denoised) / sigma * (sigmas[number + 1] - sigma)
    return x


def draw(
    unet: UNet,
    text: CLIPText,
    prompts: tuple[str, ...],
    path: Path,
    *,
    steps: int = 20,
    cfg: float = 3.5,
    seed: int = 1,
    columns: int = 10,
) -> None:
    """Write a grid of one picture a prompt."""
    tokenizer = Tokenizer.from_file(str(DATA / "tokenizer.json"))
    vae = build_vae()
    vae.load_state_dict(torch.load(DATA / "vae.pt"))
    ids = torch.tensor([encode(tokenizer, prompt) for prompt in prompts])
    empty = torch.tensor(encode(tokenizer, ""))
    latents = sample(unet, text, ids, empty, steps, cfg, seed)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        pixels = torch.cat([vae.decode(part / SCALE) for part in latents.split(16)])
    save_grid(pixels, columns, path)


def averaged(path: Path) -> tuple[UNet, CLIPText]:
    """The networks with the averaged parameters of a checkpoint."""
    unet, text = build()
    kept = torch.load(path)["average"]
    unet.load_state_dict(kept[0])
    text.load_state_dict(kept[1])
    return unet, text


def train(rank: int, args: argparse.Namespace) -> None:
    """Train by the clock of the team's first member.

    It prints a line every half minute, keeps a checkpoint every three, and draws a grid every `args.every` minutes.
    """
    torch.set_num_threads(1)
    team = Team(rank, args.team, RUNS / f"{args.name}.meeting")
    torch.manual_seed(0)
    data, (unet, text), abar = Data(), build(), alphas()
    torch.manual_seed(time.time_ns() + rank)
    found = optimizers((unet, text), args.rate, not args.adamw, STAYS_WITH_ADAMW, team)
    average, step, clock = Average((unet, text)), 0, Clock(args.minutes)
    path = RUNS / f"{args.name}.pt"
    if path.exists():
        old = torch.load(path)
        unet.load_state_dict(old["unet"])
        text.load_state_dict(old["text"])
        for optimizer, state in zip(found, old["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        average.kept, step, clock = old["average"], old["step"], Clock(args.minutes, old["used"])

    def keep() -> None:
        states = [optimizer.state_dict() for optimizer in found]
        parts = {"unet": unet.state_dict(), "text": text.state_dict(), "average": average.kept, "optimizers": states}
        save(path, **parts, step=step, used=clock.used)

    parameters = [*unet.parameters(), *text.parameters()]
    order, total, count, spoken, kept, drawn = data.order(), 0.0, 0, clock.used, clock.used, clock.used
    fraction = data.fraction = clock.fraction
    while fraction < 1:
        batch = [next(order) for _ in range(args.batch // team.size)]
        ids = torch.tensor([data.ids(subject) for subject in batch])
        loss = loss_of(unet, text, ids, data.latents[[subject.row for subject in batch]], args.copies, abar)
        (loss / team.size).backward()
        numbers = torch.tensor([loss.item() / team.size, clock.fraction * (rank == 0)])
        numbers, *gradients = team.sum([numbers, *(p.grad for p in parameters)])
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        fraction = data.fraction = numbers[1].item()
        set_rate(found, learning_rate(args.rate, step, fraction))
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in found:
            optimizer.step()
            optimizer.zero_grad()
        step, total, count = step + 1, total + numbers[0].item(), count + 1
        average.update(step)
        if math.isnan(total):
            raise SystemExit("the loss is not a number")
        if rank:
            continue
        if clock.used - spoken > 30:
            speed = count * args.batch * args.copies / (clock.used - spoken)
            print(
                f"step {step}  {clock.used / 60:.1f} min  loss {total / count:.4f}  {speed:.1f} samples/s", flush=True
            )
            total, count, spoken = 0.0, 0, clock.used
        if clock.used - kept > 180:
            keep()
            kept = clock.used
        if clock.used - drawn > args.every * 60:
            keep()
            draw(*averaged(path), PROMPTS, RUNS / f"{args.name}_{clock.used / 60:03.0f}.png")
            drawn = clock.used
    if rank == 0:
        keep()
        draw(*averaged(path), PROMPTS, RUNS / f"{args.name}_end.png")


def main() -> None:
    """Train, or look."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=12, help="captions a step")
    parser.add_argument("--copies", type=int, default=4, help="noisy copies of each")
    parser.add_argument("--every", type=float, default=9, help="minutes between grids")
    parser.add_argument("--adamw", action="store_true", help="AdamW for all weights")
    parser.add_argument("--name", default="diffusion")
    parser.add_argument("--team", type=int, default=2, help="processes")
    parser.add_argument("--look", action="store_true")
    args = parser.parse_args()
    if args.look:
        draw(*averaged(RUNS / f"{args.name}.pt"), PROMPTS, RUNS / f"{args.name}_look.png")
    else:
        (RUNS / f"{args.name}.meeting").unlink(missing_ok=True)
        torch.multiprocessing.spawn(train, (args,), nprocs=args.team)


if __name__ == "__main__":
    main()
