"""``python -m trtlab``: the same as the command ``trtlab``."""

import sys

from trtlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
