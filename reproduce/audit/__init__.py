"""The paper against itself: its text against its tables, and its tables against each other."""
