"""One thread for tests, notebooks and the programs that they start, also without `make test`.

Processes of one thread each slow down in proportion when they run side by side, or beside other
programs. Threads of one process wait for each other.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # here, since it counts only before PyTorch is loaded

import gan_tutorial  # noqa: F401 (how long threads spin, for notebooks that try two)
