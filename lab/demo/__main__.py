"""``python -m lab.demo``."""

import sys

from lab.demo.main import main

if __name__ == "__main__":
    sys.exit(main())
