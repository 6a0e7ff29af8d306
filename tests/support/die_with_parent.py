"""Imported by a fork server: it dies with the process that started it, and the data workers after it.

Each child of a fork server keeps it alive, and PyTorch's workers live as long as it does: a training that is killed
with -9 would leave them all behind. Linux alone knows how to ask for this.
"""

import ctypes
import signal
import sys


_PR_SET_PDEATHSIG = 1

if sys.platform == "linux":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
