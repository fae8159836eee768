"""What the checks found."""

import sys


class Mistakes:
    """Sentences, each with the place that it is about; nothing is said twice."""

    def __init__(self):
        self.found = []

    def add(self, place, sentence):
        """Notes a mistake."""
        line = f"{place}: {sentence}"
        if line not in self.found:
            self.found.append(line)

    def unless(self, holds, place, sentence):
        """Notes a mistake unless the condition holds."""
        if not holds:
            self.add(place, sentence)

    def report(self):
        """Prints what was found, and returns the exit status."""
        for line in self.found:
            print(line, file=sys.stderr)
        print(f"deploy/: {len(self.found)} mistakes" if self.found else "deploy/ is in order")
        return 1 if self.found else 0
