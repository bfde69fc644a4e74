"""Slow, obvious versions of what the packages do fast: the truth the fast code is compared with."""
