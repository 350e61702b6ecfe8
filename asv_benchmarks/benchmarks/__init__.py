"""Benchmarks that asv runs at each commit: CONTRIBUTING.md says how."""
