"""``python -m edge_node`` is ``flexspec-edge``."""

import sys

from edge_node.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
