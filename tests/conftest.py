"""One thread for each process of the tests: they run side by side, and small models gain nothing from a second one."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; processes started by a test inherit it
