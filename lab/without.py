"""A program as it runs where a package is not installed.

python -m lab.without PACKAGE MODULE …arguments of the program…
"""

import runpy
import sys
from typing import Any


def main() -> None:
    """Run the module as a program; importing the package raises ImportError in this process."""
    _, package, module, *arguments = sys.argv
    modules: dict[str, Any] = sys.modules
    modules[package] = None
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
