"""Small autoencoders, bare and as VAE."""

import torch

from limner.memory import DefaultSettings, MemoryManager
from limner.models.autoencoder import VAE
from limner.models.load_vae import vae_of
from limner.models.vae.wan import WanConfig, WanVAE
from limner.weights import CheckpointHeader
from tests.models.make import tiny_vae

TINY_WAN = WanConfig(dim=4, z_dim=3, dim_mult=(1, 2, 2), num_res_blocks=1, temperal_downsample=(False, True))


def tiny_wan(**changes) -> WanVAE:
    """A video autoencoder of four times the size and two frames a latent frame, with seeded weights."""
    torch.manual_seed(0)
    return WanVAE(WanConfig(**{**TINY_WAN.__dict__, **changes})).eval()


class Small(MemoryManager):
    """A manager whose device has `bytes_left` bytes for activations."""

    bytes_left: int | None = None

    def available(self, device: torch.device | None = None) -> int:
        """What is left."""
        return super().available(device) if self.bytes_left is None else self.bytes_left


def memory(bytes_left: int | None = None, **settings) -> Small:
    """A manager that computes on the CPU, in float32 unless the settings say otherwise."""
    made = Small(DefaultSettings(cpu=True, **{"force_fp32": not settings, **settings}))
    made.bytes_left = bytes_left
    return made


def video_vae(manager: MemoryManager | None = None, **changes) -> VAE:
    """The same as nodes hand it on."""
    return vae_of(CheckpointHeader.of(tiny_wan(**changes).state_dict()), manager or memory())


def picture_vae(manager: MemoryManager | None = None) -> VAE:
    """An autoencoder of pictures that halves their size."""
    header = CheckpointHeader.of(tiny_vae().state_dict(), {"config": '{"norm_groups": 4}'})
    return vae_of(header, manager or memory())


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    """Values in 0..1."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))
