"""What negd costs, measured. ``python -m benchmarks [suite ...]`` runs ``bench_<suite>.py``."""
