"""What may be said where an answer is not free: whatever is drawn of what is allowed, it keeps to the grammar."""

import random
import re

import pytest

from miniglm.book.quoting import clause_edges
from miniglm.grammar import Grammar, Guide, Trie
from miniglm.vocabulary import load_tokenizer

QUOTE = "云长斩颜良于马下，良军大败；操曰：“真神人也。"


@pytest.fixture(scope="module")
def tries(project):
    """(tokenizer, its Trie) of the book's own vocabulary and of GPT-2's, whose tokens end within characters."""
    tokenizers = [load_tokenizer(project.folder / f"data/{name}") for name in ("sanguo_bpe", "sanguo")]
    return [(tokenizer, Trie(tokenizer.ranks, tokenizer.end_id)) for tokenizer in tokenizers]


def drawn(grammar, tokenizer, trie, rng, most=400):
    """A text of tokens that are drawn from those allowed, to its end; None where there is none by `most` tokens."""
    guide, ids = Guide(grammar, trie), []
    for _ in range(most):
        allowed = guide.allowed()
        assert allowed is None or len(allowed)
        token = rng.randrange(tokenizer.vocab_size) if allowed is None else int(rng.choice(allowed.tolist()))
        if token == tokenizer.end_id:
            return tokenizer.decode(ids)
        guide.push(token)
        ids.append(token)
    return None


def quoting(*edges):
    """A grammar of a quotation of QUOTE, at any place or at its edges."""
    grammar = Grammar()
    state = grammar.span(grammar.literal(grammar.start, "「"), QUOTE, *edges)
    grammar.ends.add(grammar.literal(state, "」。"))
    return grammar


def test_a_quotation_is_a_piece_of_its_text(tries):
    """Any piece where any may be said, whole clauses where clauses are to be."""
    rng = random.Random(1)
    for tokenizer, trie in tries:
        pieces = {drawn(quoting(), tokenizer, trie, rng) for _ in range(200)} - {None}
        assert len(pieces) > 30 and all(re.fullmatch("「(.+)」。", piece)[1] in QUOTE for piece in pieces)
        whole = {drawn(quoting(*clause_edges(QUOTE)), tokenizer, trie, rng) for _ in range(200)} - {None}
        clauses = [clause for clause in re.split("[，；：。“]", QUOTE) if clause]
        begins = {re.fullmatch("「(.+)」。", piece)[1] for piece in whole}
        assert begins >= {"云长斩颜良于马下", "真神人也"} and all(piece.startswith(tuple(clauses)) for piece in begins)
        assert all(piece.endswith(tuple(clauses)) for piece in begins)


def test_what_is_free_may_be_anything(tries):
    """Behind the words that a free state follows every token may come, also one that begins with their last bytes."""
    tokenizer, trie = tries[0]
    grammar = Grammar()
    grammar.free.add(grammar.literal(grammar.start, "答"))
    guide = Guide(grammar, trie)
    for token in tokenizer.encode("答"):
        assert token in guide.allowed()
        guide.push(token)
    assert guide.allowed() is None


def test_nothing_leads_nowhere(tries):
    """A piece that begins behind the last place at which one may end is not begun."""
    for tokenizer, trie in tries:
        grammar = Grammar()
        grammar.ends.add(grammar.span(grammar.start, "一二三四五", starts=[0, 3, 4], stops=[2, 4]))
        rng = random.Random(2)
        assert {drawn(grammar, tokenizer, trie, rng) for _ in range(60)} == {"一二", "一二三四", "四"}
