"""Proofs that a run's result does not depend on how it is run, and that nothing is lost when it breaks."""
