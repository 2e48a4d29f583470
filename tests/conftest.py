"""Settings that must stand before torch loads, or before processes are started."""

import os
import signal

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command does: threads that wait soon sleep
if "PYTEST_XDIST_WORKER" in os.environ:  # a worker per core: one thread each, or they get in each other's way
    from threadpoolctl import threadpool_limits

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    threadpool_limits(1)  # a plugin of pytest has loaded NumPy by now, which has counted its threads

# A shell's background job ignores Ctrl-C, and so would the processes that tests start in order to interrupt them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
