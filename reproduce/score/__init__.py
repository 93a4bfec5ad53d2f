"""Kept predictions, and what they score: one module a task, none of which needs the model."""
