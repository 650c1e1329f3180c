"""A run without an engine, and an autoencoder that anyone can compute."""

from types import SimpleNamespace

import torch

from limner.graph import Run
from limner.store.files import Files


class Sink:
    """Remembers progress; raises what it is told to."""

    def __init__(self):
        self.seen = []
        self.told = []
        self.stop = None

    def progress(self, node_id, value, total, preview=None):
        self.seen.append((value, total, preview))
        self.check()

    def tell(self, node_id, text):
        self.told.append((node_id, text))

    def check(self):
        if self.stop is not None:
            raise self.stop


def run_in(folder, **settings):
    """A Run whose input, output and temp folders lie in `folder`."""
    kinds = ("input", "output", "temp", "user")
    for kind in kinds:
        (folder / kind).mkdir(exist_ok=True)
    chosen = SimpleNamespace(
        **{"offline": True, "disable_metadata": False, "preview_method": "none", "preview_size": 512, **settings}
    )
    store = SimpleNamespace(files=Files({kind: folder / kind for kind in kinds}))
    return Run("prompt", "7", settings=chosen, store=store, memory=None, sink=Sink())


class EighthVAE:
    """Encodes a picture to the mean of each 8×8 square of its first channel, cropped as autoencoders crop."""

    def __init__(self):
        self.encoded = []
        self.tiles = []

    def spacial_compression_encode(self):
        return 8

    spacial_compression_decode = spacial_compression_encode

    def temporal_compression_decode(self):
        return None

    def encode(self, pixels):
        self.encoded.append(pixels)
        for axis in (1, 2):
            side = pixels.shape[axis]
            pixels = pixels.narrow(axis, side % 8 // 2, side // 8 * 8)
        return torch.nn.functional.avg_pool2d(pixels[..., :1].movedim(-1, 1), 8).expand(-1, 4, -1, -1).clone()

    def decode(self, latent):
        return latent[:, :3].repeat_interleave(8, -1).repeat_interleave(8, -2).movedim(1, -1)

    def decode_tiled(self, latent, **tiles):
        self.tiles.append(tiles)
        return self.decode(latent)

    def encode_tiled(self, pixels, **tiles):
        self.tiles.append(tiles)
        return self.encode(pixels)


def ramp(*shape):
    """0, 1, 2 … as floats."""
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
