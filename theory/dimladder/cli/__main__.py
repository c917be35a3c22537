"""``python -m dimladder.cli``."""

import sys

from . import main

sys.exit(main())
