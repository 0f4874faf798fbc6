"""Measurements, each a ratio to a peer in the same run. Results lie in benchmarks/results/."""
