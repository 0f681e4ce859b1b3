"""A book: what it bears out, how it is asked about, how it is looked into, and a language model's answers about it."""
