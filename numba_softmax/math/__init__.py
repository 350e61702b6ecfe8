"""Numbers and vectors: what both backends compute with. Nothing here knows of memory layouts or ops."""
