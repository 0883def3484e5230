"""Prints a table of what jq picks from a JSON document."""

import subprocess

from tabulate import tabulate

DOCUMENT = '[{"step": "system", "reruns": 1}, {"step": "dependencies", "reruns": 2}, {"step": "code", "reruns": 3}]'
PICKED = subprocess.run(
    ["jq", "-r", ".[] | [.step, .reruns] | @tsv"], input=DOCUMENT, capture_output=True, text=True, check=True
).stdout
print(tabulate([line.split("\t") for line in PICKED.splitlines()], headers=["step", "reruns"]))
