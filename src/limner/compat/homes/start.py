"""`cuda_malloc`: what the start of the program knows of GPUs."""

from __future__ import annotations


def get_gpu_names() -> set[str]:
    """The names of NVIDIA GPUs, empty where torch sees none."""
    import torch  # noqa: PLC0415 - packs ask before torch is there

    if not torch.cuda.is_available():
        return set()
    return {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}


def cuda_malloc_supported() -> bool:
    """Whether CUDA's asynchronous allocator can be used."""
    return bool(get_gpu_names())
