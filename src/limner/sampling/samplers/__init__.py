"""Samplers: one solver a file. A file holds every public name that begins with its own (the longest match counts)."""

from __future__ import annotations

import sys
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from limner.errors import NotFound
from limner.sampling.sampler import Sampler

SAMPLERS = [
    "euler",
    "euler_cfg_pp",
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "heun",
    "heunpp2",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "dpm_fast",
    "dpm_adaptive",
    "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde",
    "dpmpp_sde_gpu",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun",
    "dpmpp_2m_sde_heun_gpu",
    "dpmpp_3m_sde",
    "dpmpp_3m_sde_gpu",
    "ddpm",
    "lcm",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
    "er_sde",
    "seeds_2",
    "seeds_3",
    "sa_solver",
    "sa_solver_pece",
    "ddim",
    "uni_pc",
    "uni_pc_bh2",
]
"""The names that nodes offer. Packs that bring a sampler add its name here."""


def get_sampler(name: str) -> Any:
    """The sampler of this public name: a pack's function if it brought one, else the built-in. Raises NotFound."""
    functions = sys.modules.get("limner.sampling.functions")
    function = None if functions is None else functions.brought(name)
    return built_in(name) if functions is None or function is None else functions.KSAMPLER(function)


def built_in(name: str) -> Sampler:
    """The built-in sampler of this public name, with its default options. Raises NotFound."""
    files = [module.name for module in iter_modules(__path__) if name.startswith(module.name)]
    for file in sorted(files, key=len, reverse=True)[:1]:
        for sampler in import_module(f"{__name__}.{file}").VARIANTS:
            if sampler.name == name:
                found: Sampler = sampler
                return found
    raise NotFound(f"No sampler is called {name!r}.", do=f"Use one of {', '.join(SAMPLERS)}.")
