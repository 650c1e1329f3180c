"""CFG++ without fresh noise.  Chung et al. 2024, Algorithm 1."""

from __future__ import annotations

from limner.sampling.sampler import Sampler
from limner.sampling.samplers.euler_ancestral_cfg_pp import euler_ancestral_cfg_pp

VARIANTS = (Sampler("euler_cfg_pp", euler_ancestral_cfg_pp, noise="gaussian", options={"eta": 0.0, "s_noise": 0.0}),)
