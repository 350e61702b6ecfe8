"""Backends: each is a folder with a `launcher_for` and a `warm`; see `call.devices`."""
