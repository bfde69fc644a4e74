"""Where shards lie as bytes: ragged columns, the two layouts, and their sizes."""
