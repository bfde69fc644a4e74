"""Reading: from record numbers to padded batches."""
