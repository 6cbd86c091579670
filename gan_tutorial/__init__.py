"""The package behind the book *Hands-On GANs with PyTorch*: one module for each idea."""

import os

__version__ = "0.1.0"

# Threads wait for each other at the end of each operation. GCC's OpenMP, which PyTorch for Linux
# uses, lets them spin 300,000 times before they sleep: 4.5 ms on our machine, during which they
# hold a core that the awaited thread may need if other programs run. 3,000 take 0.05 ms: nearly
# as fast alone, far less slow beside other programs (benchmarks/busy.py). Read when PyTorch is
# loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

# From version 1.29 on, onnxruntime reports to its vendor, and keeps a database under the home
# folder. Read when onnxruntime is loaded, and not again.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
