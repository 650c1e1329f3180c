"""What holds for every test."""

import gc
import os

# Before anything imports torch: see tests/golden/run.py.
os.environ.setdefault("MKL_CBWR", "AVX")


def pytest_collection_finish() -> None:
    """Let garbage collection pass over what imports and collection made.

    Engines collect garbage when they are told to free memory and when they close. With a million objects of torch,
    diffusers and the tests themselves that took half a second each time, and most of the time of the engine's tests.
    """
    gc.collect()
    gc.freeze()
