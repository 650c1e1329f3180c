"""How many bytes are alive at the worst moment of a pass?   live storages on the CPU; the allocator's peak on a GPU.

Of each family: a whole pass of a reduced network against diffusers' module with the same weights on the same input.
Of Flux and Qwen-Image also: one block, and a whole pass, against the straightforward order of the same operations.
Figures are in units of the patches' stream (batch · patches · width · bytes of a number), so they hold at any size;
what does not grow with the width (rotations, the latent) weighs more here than at full width, six times as wide.

budget: every family at or below diffusers; one block within 15 % of the floor; batches of Qwen-Image at 1328² at least
1.27 times and of Flux at 1600² at least 1.16 times those of the straightforward order on a card of 32 GB.

The floor of a block is 5 streams, and 6 with the residual it is added to: inside the feed-forward a token is four
times as wide, and what goes in or comes out must be there as well. (It could be lowered by feeding the tokens forward
in pieces, which takes time; nothing here does.) Beside it lies the text's residual.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from benchmarks import _straightforward as plain
from benchmarks import report
from benchmarks._dit import FAMILIES, Pair, Size
from benchmarks._live_bytes import peak_of
from limner.models import qwen_image
from limner.models.layers import streams
from limner.models.layers.hooks import Hooks
from limner.models.layers.rope import grid_ids, rotation

CARD = 32e9  # bytes
SIZE = Size()
DTYPE = torch.bfloat16


def peak(call: Callable[[nn.Module], Any], module: nn.Module) -> int:
    """Bytes beside weights and inputs: live storages, or on a GPU what its allocator says."""
    if not torch.cuda.is_available():
        return peak_of(call, module, module=module)
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.inference_mode():
        call(module)
    return torch.cuda.max_memory_allocated() - before


@contextlib.contextmanager
def straightforward() -> Iterator[None]:
    """Within it the blocks of Flux and Qwen-Image compute in the straightforward order."""
    own = (streams.DoubleStreamBlock.over, streams.SingleStreamBlock.over, qwen_image.QwenImageTransformerBlock.over)

    def double(block: Any, img: Any, txt: Any, vec: Any, pe: Any, *_: Any) -> Any:
        return plain.flux_double(block, img, txt, vec, pe)

    def single(block: Any, x: Any, vec: Any, pe: Any, *_: Any) -> Any:
        return plain.flux_single(block, x, vec, pe)

    def qwen(block: Any, image: Any, text: Any, mask: Any, temb: Any, turns: Any, hooks: Any) -> Any:
        del mask, hooks
        return plain.qwen_image(block, image, text, temb, turns)

    streams.DoubleStreamBlock.over = double  # type: ignore[method-assign,assignment]
    streams.SingleStreamBlock.over = single  # type: ignore[method-assign,assignment]
    qwen_image.QwenImageTransformerBlock.over = qwen  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        (streams.DoubleStreamBlock.over, streams.SingleStreamBlock.over,
         qwen_image.QwenImageTransformerBlock.over) = own  # type: ignore[method-assign]  # fmt: skip


def blocks() -> dict[str, tuple[Callable[[], int], Callable[[], int], float]]:
    """One block: bytes in the straightforward order, ours, and the floor."""
    torch.manual_seed(0)
    width, side = SIZE.width, SIZE.side // 2
    image, text = (torch.randn(1, tokens, width, dtype=DTYPE) for tokens in (side**2, SIZE.tokens))
    vec, both = torch.randn(1, width, dtype=DTYPE), torch.cat((text, image), dim=1)
    ids = torch.cat((torch.zeros(1, SIZE.tokens, 3), grid_ids(side, side, {})), dim=1)
    pe, hooks = rotation(ids, (16, 56, 56)), Hooks({})
    turns = qwen_image.rotation_of(ids[0], (16, 56, 56))
    double = streams.DoubleStreamBlock(width, SIZE.heads, 4.0, qkv_bias=True).to(DTYPE).eval()
    single = streams.SingleStreamBlock(width, SIZE.heads).to(DTYPE).eval()
    config = qwen_image.QwenImageConfig(num_attention_heads=SIZE.heads, mlp_width=4 * width)
    qwen = qwen_image.QwenImageTransformerBlock(config).to(DTYPE).eval()
    return {
        "flux, two streams": (
            lambda: peak_of(plain.flux_double, double, image, text, vec, pe, module=double),
            lambda: peak_of(double.over, image, text, vec, pe, None, hooks, module=double),
            5.0 * image.nbytes,
        ),
        "flux, one stream": (
            lambda: peak_of(plain.flux_single, single, both, vec, pe, module=single),
            lambda: peak_of(single.over, both, vec, pe, None, hooks, module=single),
            5.0 * both.nbytes,
        ),
        "qwen_image": (
            lambda: peak_of(plain.qwen_image, qwen, image, text, vec, turns, module=qwen),
            lambda: peak_of(qwen.over, image, text, None, vec, turns, hooks, module=qwen),
            5.0 * image.nbytes,
        ),
    }


def batch(streams: float, side: int, weights: float) -> int:
    """Pictures that fit on the card at full width. side: of a picture in pixels; weights: bytes, at eight bits."""
    stream = (side // 16) ** 2 * 3072 * 2
    return int((CARD - weights) / (streams * stream))


def report_blocks() -> None:
    """One block of each kind."""
    for name, (straight, ours, floor) in blocks().items():
        most, least = straight(), ours()
        report(
            "block", family=name, straightforward=round(5 * most / floor, 2), streams=round(5 * least / floor, 2),
            floor=5, saved=round(most / least, 2), value=round(least / floor, 3), budget=1.15,
        )  # fmt: skip


def report_pass(family: str, pair: Pair) -> None:
    """A whole pass."""
    ours, theirs = peak(pair.call_ours, pair.ours), peak(pair.call_theirs, pair.theirs)
    figures: dict[str, Any] = {
        "streams": round(ours / pair.stream, 2), "diffusers": round(theirs / pair.stream, 2),
        "megabytes_an_item": round(ours / SIZE.batch / 1e6, 1),
    }  # fmt: skip
    report("pass against diffusers", family=family, **figures, ratio=round(theirs / ours, 2), least=1.0)
    known = {"flux": (1600, 1.16, 11.9e9), "qwen_image": (1328, 1.27, 20.4e9)}
    if family in known:
        side, least, weights = known[family]
        with straightforward():
            straight = peak(pair.call_ours, pair.ours)
        fits = [batch(each / pair.stream, side, weights) for each in (straight, theirs, ours)]
        report(
            "batch of a 32 GB card", family=family, pixels=side, straightforward=fits[0], diffusers=fits[1],
            ours=fits[2], ratio=round(straight / ours, 2), least=least,
        )  # fmt: skip


def main() -> None:
    """Measure and report."""
    report_blocks()
    for family, make in FAMILIES.items():
        try:
            with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
                pair = make(SIZE, DTYPE)
        except ImportError:
            report("pass against diffusers", family=family, note="diffusers is not installed")
            continue
        report_pass(family, pair)
        del pair
        gc.collect()


if __name__ == "__main__":
    main()
