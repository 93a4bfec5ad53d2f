"""Metrics of counted images, how far they may move by chance, and tests of their differences."""
