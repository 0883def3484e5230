"""`python -m stagewright`: the command line."""

from stagewright.cli.main import run

run()
