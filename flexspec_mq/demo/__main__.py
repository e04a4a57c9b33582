"""``python -m flexspec_mq.demo``."""

import sys

from flexspec_mq.demo.main import main

if __name__ == "__main__":
    sys.exit(main())
