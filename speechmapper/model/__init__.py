"""A trained run as one object: loading and saving it, and what it says about audio."""

from speechmapper.model.mapper import SpeechMapper as SpeechMapper
