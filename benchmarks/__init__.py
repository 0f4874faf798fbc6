"""Benchmarks; each measures ratios to a peer in the same run. Results are in benchmarks/results/."""
