"""What measures an accuracy: one harness a task, each result a record of its own."""
