"""``python -m recipes``: what the launchers of several processes start."""

from recipes.cli import main

main()
