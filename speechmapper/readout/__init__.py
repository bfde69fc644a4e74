"""From projector vectors to text: by the nearest embedding row, or by a frozen LLM."""
