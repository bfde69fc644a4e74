"""From a store to batches on the device: a pure plan of the epoch, and the thread that carries it out."""
