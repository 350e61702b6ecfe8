"""Backends: each is a folder with a `starter` and a `warm`; see `call.devices`."""
