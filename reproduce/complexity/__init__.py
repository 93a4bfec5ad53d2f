"""Parameters and FLOPs of the systems, measured on the meta device and kept."""
