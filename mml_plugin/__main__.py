"""``python -m mml_plugin`` is ``mml``."""

import sys

from mml_plugin.cli import main

sys.exit(main())
