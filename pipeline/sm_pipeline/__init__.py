"""From speech corpora to feature stores: manifests, encoders, extraction."""
