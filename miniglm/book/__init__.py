"""Questions about a book: the facts that it bears out, the words to ask for them, and a language model's answers."""
