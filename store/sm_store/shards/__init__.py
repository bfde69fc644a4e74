"""How shards are laid out as bytes: ragged columns, the two layouts, and their sizes."""
