"""Benchmarks: cases, clocks, references, figures."""
