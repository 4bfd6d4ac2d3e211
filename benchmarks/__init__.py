"""Benchmarks: each module is one command that writes benchmarks/results/NAME.json; speeds are ratios within one run."""
