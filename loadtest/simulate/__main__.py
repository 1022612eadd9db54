"""`python -m loadtest.simulate`."""

import sys

from loadtest.simulate.command import main

if __name__ == "__main__":
    sys.exit(main())
