"""Features: the outputs of layers, computed in one pass and kept."""
