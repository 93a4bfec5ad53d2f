"""The paper's recipes: training with and without token labeling, and the annotator's label maps."""
