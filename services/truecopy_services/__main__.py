"""`python -m truecopy_services`: the command line."""

import sys

from truecopy_services.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
