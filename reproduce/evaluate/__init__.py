"""What measures an accuracy: one harness for all tasks, each result a record of its own."""
