"""What an answer may say where it is not free: a call only words of the question, a quotation only words of the book.

A Grammar is a graph over bytes: each state knows which bytes may come next and where they lead. A Guide walks through
it beside the model and says which tokens may be drawn; so a quotation is verbatim without having been learnt. (The
manner of Willard and Louf 2023, arXiv:2307.09702; over bytes, since a token may end within a character.)

    grammar = Grammar()
    state = grammar.literal(grammar.start, "「")
    state = grammar.span(state, "云长斩颜良于马下，良军大败")
    grammar.accept(grammar.literal(state, "」。"))
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

NOWHERE: Mapping[str, int] = {}


class Grammar:
    """A graph of states, numbers from 0. From a state a byte leads to others; a state may be others at once."""

    start = 0

    def __init__(self):
        self.steps: list[dict[int, list[int]]] = [{}]  # of each state {byte: states}
        self.also: dict[int, list[int]] = defaultdict(list)  # the states that a state is at once
        self.ends: set[int] = set()  # states in which the answer may be over
        self.free: set[int] = set()  # states from which anything may follow

    def state(self) -> int:
        """A new state."""
        self.steps.append({})
        return len(self.steps) - 1

    def literal(self, state: int, text: str) -> int:
        """The state behind a text that follows a state."""
        for byte in text.encode("utf-8"):
            behind = self.state()
            self.steps[state].setdefault(byte, []).append(behind)
            state = behind
        return state

    def span(
        self, state: int, text: str, starts: Iterable[int] | None = None, stops: Iterable[int] | None = None
    ) -> int:
        """The state behind any piece of a text that follows a state, at least a character.

        starts, stops: the positions at which a piece may begin and end; None: anywhere.
        """
        begins = set(range(len(text)) if starts is None else starts)
        ends = set(range(1, len(text) + 1) if stops is None else stops)
        end, before = self.state(), self.state()
        for position, character in enumerate(text[: max(ends, default=0)]):  # behind its last end it leads nowhere
            if position in begins:
                self.also[state].append(before)
            behind, before = self.literal(before, character), self.state()
            self.also[behind].append(before)  # two states, or a piece could end where it begins
            if position + 1 in ends:
                self.also[behind].append(end)
        return end

    def any_but(self, state: int, behind: int, without: str, leading: Mapping[str, int] = NOWHERE):
        """Let any character lead from a state to another one, but some ASCII characters.

        leading: where some characters lead instead.
        """
        ends, states = {each.encode("utf-8"): target for each, target in leading.items()}, {b"": state}
        parts = {b"", *(each[:length] for each in ends for length in range(len(each)))}  # how those begin
        rests = [behind]  # of a character that none of those is: how many bytes are still to come
        for _ in range(3):
            rests.append(self.state())
            for byte in range(0x80, 0xC0):
                self.steps[rests[-1]][byte] = [rests[-2]]
        for part in sorted(parts, key=len):
            for byte in range(256) if not part else range(0x80, 0xC0):
                read, length = part + bytes([byte]), len(part) + 1
                if read in ends:
                    target = ends[read]
                elif read in parts:
                    target = states[read] = self.state()
                elif not part and (byte in without.encode("ascii") or 0x80 <= byte < 0xC0):
                    continue
                else:
                    target = rests[(1 + (read[0] >= 0xC0) + (read[0] >= 0xE0) + (read[0] >= 0xF0)) - length]
                self.steps[states[part]].setdefault(byte, []).append(target)

    def join(self, state: int, other: int):
        """Let a state be another at once."""
        self.also[state].append(other)

    def closure(self, states: Iterable[int]) -> frozenset[int]:
        """Some states with all that they are at once."""
        found, todo = set(states), list(states)
        while todo:
            for other in self.also.get(todo.pop(), ()):
                if other not in found:
                    found.add(other)
                    todo.append(other)
        return frozenset(found)


class Trie:
    """The tokens of a vocabulary by their bytes."""

    def __init__(self, ranks: Mapping[bytes, int], end_id: int):
        """ranks: {bytes of a token: its id}. end_id: the token that ends an answer."""
        self.end_id, self.size = end_id, max(end_id, *ranks.values()) + 1
        self.bytes = {id: token for token, id in ranks.items()}
        self.root: dict = {}  # {byte: (id or None, the same one byte further)}
        for token, id in ranks.items():
            node = self.root
            for byte in token[:-1]:
                node = node.setdefault(byte, [None, {}])[1]
            node.setdefault(token[-1], [None, {}])[0] = id


class Guide:
    """Where an answer stands in a grammar, and which tokens may come next."""

    def __init__(self, grammar: Grammar, trie: Trie):
        self.grammar, self.trie = grammar, trie
        self.states = grammar.closure({grammar.start})
        self.known: dict[frozenset[int], np.ndarray] = {}  # what is allowed in some states
        self.moved: dict[frozenset[int], dict] = {}  # where bytes lead from some states

    def allowed(self) -> np.ndarray | None:
        """The ids, int64, that may come next; None where any may."""
        grammar, found = self.grammar, []
        if self.states & grammar.free:
            return None
        if self.states in self.known:
            return self.known[self.states]

        def walk(node: dict, states: frozenset[int]):
            moves = self.moves(states)
            for byte in moves if len(moves) < len(node) else node:
                if byte in node and byte in moves:
                    id, further = node[byte]
                    if id is not None:
                        found.append(id)
                    if further:
                        reached = self.behind(states, byte)
                        if reached & grammar.free:
                            found.extend(below(further))
                        walk(further, reached)

        walk(self.trie.root, self.states)
        if self.states & grammar.ends:
            found.append(self.trie.end_id)
        self.known[self.states] = np.array(sorted(set(found)), np.int64)
        return self.known[self.states]

    def moves(self, states: frozenset[int]) -> dict[int, set[int] | frozenset[int]]:
        """{byte: the states behind it} of some states that stand together."""
        if states not in self.moved:
            here = self.moved[states] = defaultdict(set)
            for state in states:
                for byte, behind in self.grammar.steps[state].items():
                    here[byte].update(behind)
        return self.moved[states]

    def behind(self, states: frozenset[int], byte: int) -> frozenset[int]:
        """All states behind a byte."""
        moves = self.moves(states)
        behind = moves.get(byte, frozenset())
        if not isinstance(behind, frozenset):
            behind = moves[byte] = self.grammar.closure(behind)
        return behind

    def push(self, token: int):
        """Go on with a token that was allowed."""
        if token == self.trie.end_id or self.states & self.grammar.free:
            return
        states = self.states
        for byte in self.trie.bytes[token]:
            if states & self.grammar.free:
                break
            states = self.behind(states, byte)
        self.states = states


def below(node: dict) -> list[int]:
    """The ids of all tokens below a node of a Trie."""
    found = []
    for id, further in node.values():
        found += [] if id is None else [id]
        found += below(further)
    return found
