"""The console script: the program ``ckpt`` itself, in this process."""

import signal
import sys
from typing import NoReturn

from . import _native


def main() -> NoReturn:
    """Runs the command line, and exits with its code."""
    # Ctrl-C belongs to the program, which stops in order where it writes; Python would only note it for later.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_native.main(sys.argv[1:]))
