"""Settings that must stand before torch loads."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait must not spin beside other processes
