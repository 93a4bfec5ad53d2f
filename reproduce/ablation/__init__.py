"""The paper's design claims, tested by training the designs side by side."""
