"""The harness: systems, complexity, verdicts and results of a paper's tables."""
