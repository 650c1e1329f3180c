"""DDIM: the Euler step in other coordinates, told apart by how inpainting fills in noise.  Song et al. 2021."""

from __future__ import annotations

from limner.sampling.sampler import Sampler
from limner.sampling.samplers.euler import euler

VARIANTS = (Sampler("ddim", euler, noise="gaussian", fresh_fill=True),)
