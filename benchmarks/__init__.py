"""Measurements, each as ratios within one run: `python -m benchmarks.NAME`; results are in benchmarks/README.md."""
