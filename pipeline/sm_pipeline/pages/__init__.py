"""What a store looks like to a person: figures, text, and one self-contained page."""
