"""Benchmarks: what an architecture scores."""
