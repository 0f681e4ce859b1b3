"""Questions about a book: facts that it bears out, how they may be asked for, and answers of a language model."""
