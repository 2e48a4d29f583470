"""Settings that must stand before torch loads."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command does: threads that wait soon sleep
