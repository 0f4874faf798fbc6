"""Experiments: what the paper claims, tried on small data."""
