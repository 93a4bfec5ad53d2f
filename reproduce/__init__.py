"""The harness: systems, complexity, verdicts and results of MAFormer's Tables 1-7."""
