"""Experiments that test the paper's claims on small data."""
