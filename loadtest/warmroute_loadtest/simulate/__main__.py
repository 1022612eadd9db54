"""`python -m warmroute_loadtest.simulate`."""

import sys

from warmroute_loadtest.simulate.command import main

if __name__ == "__main__":
    sys.exit(main())
