"""Packs make a loaded model one of a class of their own, and write its patches in their own way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from tests.compat.using import place

NAME = "diffusion_model.time_embed.0.weight"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, ...]]:
    """Model, CLIP and the class of a pack."""
    folder = tmp_path_factory.mktemp("adopted")
    with place(folder):
        import comfy.model_patcher
        import comfy.sd
        import comfy.utils

        class Own(comfy.model_patcher.ModelPatcher):
            """Keeps weights with what was there before, as packs do, and notes what it wrote."""

            written: ClassVar[list[str]] = []
            unpatched = 0

            def patch_weight_to_device(self, key: str, device_to: Any = None, inplace_update: bool = False) -> None:
                if key not in self.patches:
                    return
                Own.written.append(key)
                weight = comfy.utils.get_attr(self.model, key)
                self.backup.setdefault(key, Kept(weight))
                changed = comfy.lora.calculate_weight(self.patches[key], weight.to(torch.float32, copy=True), key)
                comfy.utils.set_attr_param(self.model, key, changed)

            def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> Any:
                Own.unpatched += 1
                return super().unpatch_model(device_to=device_to, unpatch_weights=unpatch_weights)

            def clone(self, *args: Any, **kwargs: Any) -> Any:
                before = self.__class__
                self.__class__ = Own
                made = super().clone(*args, **kwargs)
                made.__class__ = Own
                self.__class__ = before
                if before != Own:
                    made.size = 0
                return made

        class Kept:
            def __init__(self, weight: torch.Tensor) -> None:
                self.weight = weight

        file = Path(folder) / "models" / "checkpoints" / "tiny.safetensors"
        model, clip, _ = comfy.sd.load_checkpoint_guess_config(str(file), output_vae=True, output_clip=True)[:3]
        yield model, clip, Own


def drawn(model: Any, clip: Any) -> torch.Tensor:
    import comfy.sample
    import nodes

    fox, nothing = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("fox", ""))
    noise = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(3))
    found: torch.Tensor = comfy.sample.sample(
        model, noise, 2, 3.0, "euler", "normal", fox, nothing, torch.zeros(1, 4, 8, 8), seed=3
    )
    return found


def test_a_model_becomes_the_packs_and_stays_what_it_is(parts: tuple[Any, ...]) -> None:
    model, clip, own = parts
    kind = type(model)

    made = own.clone(model)
    again = made.clone()

    assert type(model) is kind
    assert not isinstance(model, own)
    for one in (made, again):
        assert isinstance(one, own)
        assert isinstance(one, kind)
        assert one.size == model.size
        assert one.is_clone(model)
    assert torch.equal(drawn(made, clip), drawn(model, clip))


def test_patches_are_written_by_the_packs_class_and_taken_out_again(parts: tuple[Any, ...]) -> None:
    model, clip, own = parts
    change = {NAME: (torch.full(model.model.state_dict()[NAME].shape, 0.1),)}
    plain, usual, theirs = own.clone(model), model.clone(), own.clone(model)
    for one in (usual, theirs):
        assert one.add_patches(change, 0.5) == [NAME]
    own.written.clear()

    first = drawn(theirs, clip)
    assert set(own.written) == {NAME}
    assert own.unpatched
    assert torch.allclose(first, drawn(usual, clip), atol=1e-5)
    assert torch.equal(drawn(plain, clip), drawn(model, clip))
    assert not torch.allclose(first, drawn(plain, clip), atol=1e-3)
    assert torch.equal(drawn(theirs, clip), first)


def test_a_network_in_memory_becomes_the_packs_and_is_let_go(parts: tuple[Any, ...]) -> None:
    import comfy.model_patcher

    _, _, own = parts
    patcher = comfy.model_patcher.ModelPatcher(torch.nn.Linear(2, 2), torch.device("cpu"), torch.device("cpu"))
    made = own.clone(patcher)
    assert type(made) is own
    assert type(patcher) is comfy.model_patcher.ModelPatcher
