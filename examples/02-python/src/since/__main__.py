"""The command line: `python -m since YYYY-MM-DD`."""

import datetime
import sys

import humanize

day = datetime.date.fromisoformat(sys.argv[1])
print(f"{day}: {humanize.naturaldelta(datetime.date.today() - day)} ago")
