"""A measured classifier as a folder that timm and the Hub read, and in exchange formats."""
