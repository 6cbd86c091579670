"""The package behind the book *Hands-On GANs with PyTorch*: one module for each idea."""

import contextlib
import ctypes
import os

__version__ = "0.1.0"

# Threads wait for each other at the end of each operation. GCC's OpenMP, which PyTorch for Linux
# uses, lets them spin 300,000 times before they sleep: 4.5 ms on our machine, during which they
# hold a core that the awaited thread may need if other programs run. 3,000 take 0.05 ms: nearly
# as fast alone, nearly twice as fast beside two busy programs (benchmarks/busy.py). Read when
# PyTorch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

# A step of training frees its memory, and the next step allocates the same again. In between, glibc
# may return much of it to the system, which hands it out anew, page by page. Now blocks of up to
# 2**25 bytes (the most that glibc allows), and 2**29 in all, are kept: on one thread an earlier
# `quick` made a seventh more steps a second (benchmarks/busy.py). glibc's own variables take
# precedence.
if not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**25)
        ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 2**29)

# From version 1.29 on, onnxruntime reports to its vendor, and keeps a database under the home
# folder. Read when onnxruntime is loaded, and not again.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
