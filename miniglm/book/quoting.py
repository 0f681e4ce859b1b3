"""What of a sentence is quoted: whole clauses around what was asked for, with who says it, neither short nor long."""

import re
from collections.abc import Collection
from itertools import pairwise

from miniglm.book.mentions import EDGE_MARKS

QUOTED = (12, 34)  # characters of a quotation, about
STARTS, STOPS = "，；：。！？“‘”’ \u3000", "，；。！？”’ \u3000"  # where one may begin, and end


def quoted(text: str, wanted: Collection[str], told: str = "") -> str:
    """The clauses of a text that are quoted. wanted: words that they are to hold. told: clauses to be in it."""
    return widened(with_speaker(told or clauses_with(text, wanted), text), text)


def clauses_with(text: str, wanted: Collection[str]) -> str:
    """The neighbouring clauses of a text that hold most of some words."""
    shortest, longest = QUOTED
    clauses = re.findall("[^，；：。！？]+[，；：。！？”’]*", text) or [text]
    best, chosen = -1.0, clauses[0]
    for start in range(len(clauses)):
        piece = ""
        for clause in clauses[start:]:
            if piece and len(piece) + len(clause) > longest:
                break
            piece += clause
            score = sum(len(word) for word in wanted if word in piece) - 0.02 * len(piece) - (len(piece) < shortest)
            if score > best:
                best, chosen = score, piece
    return chosen.strip(EDGE_MARKS)[: 2 * longest]


def with_speaker(quote: str, text: str) -> str:
    """What is said with who says it, where that stands before it: 操曰：“宁教我负天下人."""
    said = re.search(r"[^，；。！？”“]{1,12}[：，]“$", text[: max(0, text.find(quote))])
    return said[0] + quote if said else quote


def widened(quote: str, text: str) -> str:
    """A short quotation with the clause before it, or behind, where both are not long."""
    shortest, longest = QUOTED
    position = text.find(quote)
    if len(quote) >= shortest or position < 0:
        return quote
    edges = [0, *(match.end() for match in re.finditer("[，；：。！？、\u3000][”’“‘]?", text)), len(text)]
    before = max((edge for edge in edges if edge < position), default=position)
    if position - before > 1 and position + len(quote) - before <= longest:
        return text[before : position + len(quote)].strip(EDGE_MARKS)
    behind = min((edge for edge in edges if edge > position + len(quote) + 1), default=len(text))
    return text[position:behind].strip(EDGE_MARKS) if behind - position <= longest else quote


def clause_edges(quote: str) -> tuple[list[int], list[int]]:
    """Where the clauses of a quotation begin, and where they end."""
    pairs = list(enumerate(pairwise(f"，{quote}，")))
    starts = [at for at, (before, mark) in pairs if before in STARTS and mark not in STARTS]
    return starts, [at for at, (before, mark) in pairs if mark in STOPS and before not in STOPS]
