"""`python -m warmroute_loadtest.simulate` runs the simulator."""

import sys

from warmroute_loadtest.simulate.command import main

if __name__ == "__main__":
    sys.exit(main())
