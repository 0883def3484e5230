"""`python -m stagewright`: the command line."""

import sys

from stagewright.cli.main import run

sys.exit(run())
