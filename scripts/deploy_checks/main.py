"""Holds deploy/ against its sources.

Usage, from the repository's root: main.py HELM. HELM is empty where there is none.
"""

import sys

import chart
import sources
import texts
import units
from mistakes import Mistakes


def main():
    """Runs all checks, and ends with 1 when one found a mistake."""
    mistakes = Mistakes()
    known = sources.read()
    texts.check(known, mistakes)
    units.check(known, mistakes)
    chart.check(sys.argv[1], known, mistakes)
    sys.exit(mistakes.report())


main()
