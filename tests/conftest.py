"""What holds for every test."""

import os

# Before anything imports torch: see tests/golden/run.py.
os.environ.setdefault("MKL_CBWR", "AVX")
