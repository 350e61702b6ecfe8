"""Numbers and vectors that both backends compute with. Nothing here knows of memory layouts or ops."""
