"""What an LLM is given for a projector's vectors, and which tokens they are: one function for both."""

from speechmapper.heads.head import Head as Head
