"""Recipes and the command line: the only place that knows names and files."""
