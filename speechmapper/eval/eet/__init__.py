"""The embedding error threshold of an LLM: texts, noise, curve, page."""
