"""Data: anything turned into checked columns, decoded once, drawn by a plan that is computed and not replayed."""
