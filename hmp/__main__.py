"""`python -m hmp`."""

import sys

from hmp.cli import main

sys.exit(main())
