"""What an answer is worth: by what a book can check, by a reward model, or by a reader's own function.

judge = judge_of("right=1,loop=-1", book)              # or "out/align-reward", or "my_reward.py"
judge([{"Question": "张飞字什么？", "Key": "翼德"}], [Answer(turns, "张飞字翼德。", True)])    # [1.0]
"""

import math
import re
import runpy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from miniglm import origin
from miniglm.batch import Batch
from miniglm.book.reader import BookReader
from miniglm.conversation import Messages, encode_conversation, normalised
from miniglm.errors import UserError, refuse
from miniglm.metrics import CANNOT, NOBODY, is_right, keys_of, loops
from miniglm.objectives import log_probs_of, scores_of
from miniglm.origin import Loaded

DENIES = re.compile("[书書]中[没沒]有")


class Answer(NamedTuple):
    """What a model said to a question."""

    turns: Messages  # the conversation, what was looked up included, up to the answer
    text: str
    ended: bool  # whether it came to its end
    said: Sequence[list[int]] = ()  # the ids of each call and of the text, see chat.Completion


Judge = Callable[[Sequence[dict], Sequence[Answer]], list[float]]  # of questions, see metrics.read_questions


def right(question: dict, answer: Answer, book: BookReader | None) -> float:
    """1 where the answer is right, see metrics.is_right; where nothing tells that, where it is the known one."""
    found = is_right(answer.text, question, book.passages.people if book else NOBODY)
    return float(answer.text == question["Answer"] if found is None else found)


def denied(question: dict, answer: Answer, book: BookReader | None) -> float:
    """1 where the answer refuses what can be answered, or denies what the book has."""
    known = [key for key in keys_of(question) if not DENIES.search(key)]
    return float(bool(known) and bool(CANNOT.search(answer.text) or DENIES.search(answer.text)))


def verbatim(question: dict, answer: Answer, book: BookReader | None) -> float:
    """The share of 「quotations」 in the answer that stand in the book word for word; 1 where it quotes nothing."""
    quotes = re.findall("「(.+?)」", answer.text)
    return sum(book.passages.is_verbatim(quote) for quote in quotes) / len(quotes) if quotes and book else 1.0


def loop(question: dict, answer: Answer, book: BookReader | None) -> float:
    """1 where the answer loops or comes to no end, see metrics.loops."""
    return float(loops(answer.text, answer.ended))


def length(question: dict, answer: Answer, book: BookReader | None) -> float:
    """How many hundred characters the answer has."""
    return len(answer.text) / 100


@torch.no_grad()
def likelihood_margins(loaded: Loaded, pairs: Sequence[tuple[Messages, Messages]], rows: int = 32) -> list[float]:
    """By how many nats a model finds the better answer of each pair likelier than the worse one.

    pairs: two conversations each, that begin with the same question. rows: how many are read at once.
    """
    tokenizer, device, sums = loaded.tokenizer, loaded.model.device, []
    talks = [normalised(talk, loaded.normalisation) for pair in pairs for talk in pair]
    encoded = [encode_conversation(tokenizer, talk, loaded.searches) for talk in talks]
    for start in range(0, len(encoded), rows):
        some = encoded[start : start + rows]
        longest = max(len(ids) for ids, _ in some)
        ids, mask = (
            torch.tensor([row[column] + [0] * (longest - len(row[column])) for row in some], device=device)
            for column in (0, 1)
        )
        batch = Batch(ids[:, :-1], ids[:, 1:], mask[:, 1:].float())
        sums += log_probs_of(loaded.model, batch).sum(1).tolist()
    return [better - worse for better, worse in zip(sums[::2], sums[1::2])]


REWARDS = {each.__name__: each for each in (right, denied, verbatim, loop, length)}


def judge_of(reward: str, book: BookReader | None) -> Judge:
    """The judge that --reward names. Raises UserError.

    reward: NAME=WEIGHT,… of REWARDS, summed; the directory of a reward model; or FILE.py with a function
    reward(question: dict, answer: str) -> float, which is executed.
    """
    if reward.endswith(".py"):
        return own(reward)
    if "=" not in reward:
        return RewardModel(reward)
    weights = {}
    for part in reward.split(","):
        name, _, weight = part.partition("=")
        known = f"choose NAME=WEIGHT of {', '.join(REWARDS)}, a directory, or FILE.py"
        refuse(name not in REWARDS, f"--reward knows no {name[:30]!r}", known)
        try:
            weights[REWARDS[name]] = float(weight)
        except ValueError as error:
            raise UserError(f"--reward gives {name} the weight {weight[:30]!r}, no number", known) from error

    def judge(questions, answers):
        return [
            sum(weight * worth(question, answer, book) for worth, weight in weights.items())
            for question, answer in zip(questions, answers)
        ]

    return judge


def own(path: str) -> Judge:
    """The judge in a reader's own Python file. Raises UserError, also where it fails or gives what is no number."""
    todo = "mend it: def reward(question: dict, answer: str) -> float"
    try:
        function = runpy.run_path(path)["reward"]
    except Exception as error:  # of the reader's own making
        raise UserError(f"{path} cannot be used ({type(error).__name__}: {error})", todo) from error

    def judge(questions, answers):
        worths = []
        for question, answer in zip(questions, answers):
            try:
                worth = float(function(question, answer.text))
            except Exception as error:
                raise UserError(f"the reward in {path} failed ({type(error).__name__}: {error})", todo) from error
            refuse(not math.isfinite(worth), f"the reward in {path} is {worth} for {answer.text[:30]!r}", todo)
            worths.append(worth)
        return worths

    return judge


class RewardModel:
    """A model that --objective=reward has trained."""

    def __init__(self, place: str, device: str = "auto"):
        """place: its directory. Raises UserError where there is none."""
        self.loaded = origin.load(place, device, scores=True)
        none = self.loaded.model.value_head is None
        refuse(none, f"{place} is no reward model", "train one with --objective=reward")

    @torch.no_grad()
    def scores(self, talks: Sequence[Messages]) -> list[float]:
        """What the model gives each conversation that ends with an answer."""
        model, found = self.loaded.model, []
        for turns in talks:
            ids, mask = encode_conversation(self.loaded.tokenizer, normalised(turns, self.loaded.normalisation))
            ids, mask = (torch.tensor([each[-model.config.block_size :]], device=model.device) for each in (ids, mask))
            batch = Batch(ids, ids, mask.roll(-1, 1).float(), torch.zeros_like(ids))
            found.append(scores_of(model, batch)[0, 0].item())
        return found

    def __call__(self, questions: Sequence[dict], answers: Sequence[Answer]) -> list[float]:
        """See Judge."""
        said = ([*answer.turns, {"role": "assistant", "content": answer.text}] for answer in answers)
        return self.scores(list(said))
