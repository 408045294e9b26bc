"""Pretraining: learn a backbone from labels that cost nothing."""
