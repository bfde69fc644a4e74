"""A store described for people: text, figures, and one self-contained HTML page."""
