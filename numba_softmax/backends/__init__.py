"""Backends: each is a folder with a `run`; see `dispatch`."""
