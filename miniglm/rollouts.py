"""Batches of answers that the model itself draws and a reward judges: the source of --objective=grpo and ppo."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from miniglm.batch import Batch
from miniglm.book.passages import Passages
from miniglm.book.reader import BookReader
from miniglm.chat import MOST_CALLS, complete, complete_with, prompt_ids
from miniglm.decoding import Sampling
from miniglm.machine import evaluating
from miniglm.objectives import of_each
from miniglm.origin import Loaded, Start
from miniglm.rewards import Answer, Judge
from miniglm.sources import Reference, Steps

WIDTHS = 64  # tokens, of which rows are a multiple: every new shape would cost the CPU's kernels time and memory


@dataclass(frozen=True)
class Drawing:
    """How answers are drawn and judged."""

    group_size: int  # answers to each question
    steps_a_draw: int  # steps that are taken on what is drawn at once
    temperature: float
    max_new_tokens: int
    critic: bool  # whether a value head says what was to be expected (ppo), else the group's mean (grpo)
    beta: float  # of the divergence from the reference, for the critic's kind a part of the reward
    gamma: float  # how much less a reward counts a token earlier
    gae_lambda: float  # between what the critic expects next (0) and what came in the end (1)


class Rollouts:
    """Answers of the model as it is, drawn anew every few steps; see sources.Source."""

    def __init__(
        self, data, steps: Steps, start: Start, drawing: Drawing, judge: Judge, reference: Reference | None, autocast
    ):
        """data: prompts, see data_utils.Prompts. reference: None where the model is kept near none."""
        self.data, self.steps, self.drawing, self.judge = data, steps, drawing, judge
        self.reference, self.autocast, self.steps_a_draw = reference, autocast, drawing.steps_a_draw
        self.speaker = Loaded(
            start.model, data.tokenizer, True, data.searches, {}, data.normalisation, book_of(data), start.family
        )
        self.drawn, self.batches, self.told = None, {}, {}
        self.groups = self.flat = 0  # of answers to one question so far, and of these those all worth the same

    def take(self, step: int) -> list[Batch]:
        """The batches of a step; with the first step of a draw all of its are drawn."""
        first = step - step % self.steps_a_draw
        if self.drawn != first or not self.batches:
            self.draw(first)
        return [self.batches[number] for number in self.steps.numbers(step)]

    def draw(self, first: int):
        """Let the model answer the questions of the steps from `first` on, and judge the answers."""
        steps, size = self.steps, self.steps.batch_size
        numbers = [number for step in range(first, first + self.steps_a_draw) for number in steps.numbers(step)]
        questions = [question for number in numbers for question in self.questions("train", number)]
        asked = [question for question in questions for _ in range(self.drawing.group_size)]
        answers = self.answer(asked, (steps.seed << 32) + numbers[0])
        rewards = torch.tensor(self.judge(asked, answers), dtype=torch.float32)
        groups = rewards.view(-1, self.drawing.group_size)  # (questions, answers)
        spread = groups.std(1, correction=0, keepdim=True)
        advantages = ((groups - groups.mean(1, keepdim=True)) / (spread + 1e-4)).flatten()
        worth = rewards if self.drawing.critic else advantages
        self.drawn, self.batches, further = first, {}, []
        for place, number in enumerate(numbers):
            of_batch = slice(place * size, (place + 1) * size)
            batch = self.packed(answers[of_batch], worth[of_batch], (steps.seed << 32) + number)
            batch = self.looked_at(batch.to(steps.group.device))
            if batch.before is not None and batch.reference is not None:
                further.append(((batch.before - batch.reference) * batch.loss_mask).sum() / batch.weight)
            self.batches[number] = batch
        if self.drawing.critic:
            self.whiten()
        flat = int((spread < 1e-6).sum())
        self.groups, self.flat = self.groups + len(groups), self.flat + flat
        self.told = {
            "reward": rewards.mean().item(),
            "flat_groups": flat / len(groups),
            "answer_length": sum(len(answer.text) for answer in answers) / len(answers),
        }
        if further:
            self.told["divergence"] = torch.stack(further).mean().item()

    def questions(self, split: str, number: int) -> list[dict]:
        """The questions whose answers are batch number `number` of a split."""
        return self.data.numbered(split, self.steps.batch_size // self.drawing.group_size, number, self.steps.seed)

    def answer(self, questions: Sequence[dict], seed: int) -> list[Answer]:
        """An answer to each question, drawn from the model as it is."""
        sampling = Sampling(temperature=self.drawing.temperature, seed=seed)
        with evaluating(self.speaker.model):
            return draw(self.speaker, questions, sampling, self.drawing.max_new_tokens)

    def packed(self, answers: Sequence[Answer], worth: torch.Tensor, seed: int) -> Batch:
        """A Batch on the CPU of answers, several in a row; what was asked and looked up is only read.

        worth: of each answer, (answers,), which becomes the advantage of each of its tokens.
        """
        length = self.steps.block_size + 1
        rows: list[list[tuple]] = []  # of (id, whether it is learnt, the number of its answer in the row, its worth)
        samples = [
            (*each, its_worth) for answer, its_worth in zip(answers, worth.tolist()) for each in self.samples(answer)
        ]
        for ids, read, its_worth in samples:
            ids = ids[:length]
            row = next((row for row in rows if len(row) + len(ids) <= length), None)
            if row is None:
                rows.append(row := [])
            number = row[-1][2] + 1 if row else 0
            row += [(token, int(place >= read), number, its_worth) for place, token in enumerate(ids)]
        width = min(length, -(-max(map(len, rows)) // WIDTHS) * WIDTHS + 1)
        filled = [[*row, *[(0, 0, row[-1][2] + 1, 0.0)] * (width - len(row))] for row in rows]
        ids, mask, sample, advantages = (
            torch.tensor([[each[of] for each in row] for row in filled]) for of in range(4)
        )
        learned = mask[:, 1:].float()
        return Batch(
            ids[:, :-1],
            ids[:, 1:],
            learned,
            sample[:, :-1],
            seed,
            temperature=self.drawing.temperature,
            advantages=advantages[:, 1:] * learned,
        )

    def samples(self, answer: Answer) -> Iterator[tuple[list[int], int]]:
        """(ids, how many of them were only read) of each time that the model spoke: to look something up, to answer.

        They are the ids that were drawn: the same text in other tokens would be another choice.
        """
        speaker = self.speaker
        asked = max(place for place, turn in enumerate(answer.turns) if turn["role"] == "user") + 1
        for number, ids in enumerate(answer.said):
            if not ids:  # what was looked up left no room to speak
                continue
            choosing = speaker.book is not None and number < MOST_CALLS
            read = prompt_ids(speaker, answer.turns[: asked + 2 * number], choosing)  # each call has what it gave
            yield [*read, *ids], len(read)

    @torch.no_grad()
    def looked_at(self, batch: Batch) -> Batch:
        """The batch with what model and reference make of it; with a critic its advantages, so far rewards, too."""
        model = self.speaker.model
        with evaluating(model), self.autocast:
            before, values = of_each(model, batch)
        batch = replace(batch, before=before, reference=self.reference(batch) if self.reference else None)
        if not self.drawing.critic:
            return batch
        brought = torch.zeros_like(before)
        if batch.reference is not None:
            brought = -self.drawing.beta * (before - batch.reference) * batch.loss_mask
        assert batch.sample is not None and batch.advantages is not None and values is not None
        advantages = torch.zeros_like(before)
        for row in range(len(before)):
            for sample in range(int(batch.sample[row].max()) + 1):
                places = ((batch.sample[row] == sample) & (batch.loss_mask[row] > 0)).nonzero()[:, 0]
                if len(places):
                    brought[row, places[-1]] += batch.advantages[row, places[-1]]
                    expected = values[row, places]
                    advantages[row, places] = generalised_advantages(brought[row, places], expected, self.drawing)
        return replace(batch, advantages=advantages, returns=(advantages + values) * batch.loss_mask)

    def whiten(self):
        """Give the advantages of all that was drawn the mean 0 and the spread 1."""
        counted = torch.cat([batch.advantages[batch.loss_mask > 0] for batch in self.batches.values()])
        mean, spread = counted.mean(), counted.std() + 1e-4
        for number, batch in self.batches.items():
            self.batches[number] = replace(batch, advantages=(batch.advantages - mean) / spread * batch.loss_mask)

    def estimate(self, split: str, index: int, loss_on) -> float:
        """Minus the mean reward of an answer to each of some questions, the same ones each time."""
        questions = self.questions(split, index)
        return -sum(self.judge(questions, self.answer(questions, self.steps.seed))) / len(questions)

    def figures(self) -> dict[str, float]:
        """What the answers drawn last were worth, how long they were, and how far the model has come."""
        return self.told

    def closing(self) -> str:
        """How many questions taught nothing, since all answers to them were worth the same."""
        if not self.groups or self.drawing.critic:
            return ""
        todo = "; ask harder ones, or raise --temperature" if self.flat > self.groups / 2 else ""
        share = self.flat / self.groups
        return f"of {self.groups:,} questions {share:.0%} taught nothing, all answers to them were worth the same{todo}"


def draw(loaded: Loaded, questions: Sequence[dict], sampling: Sampling, max_new_tokens: int) -> list[Answer]:
    """An answer to each question; a model that has learnt it looks into its book.

    It is not led through the book's grammars: what those choose is not the model's, and teaches it nothing.
    questions: see metrics.read_questions.
    """
    order = sorted(range(len(questions)), key=lambda number: len(questions[number]["Answer"]))  # a batch ends together
    talks = [
        questions[number].get("Turns") or [{"role": "user", "content": questions[number]["Question"]}]
        for number in order
    ]
    if loaded.book:
        said = complete_with(loaded.book, loaded, talks, max_new_tokens, sampling, guided=False)
    else:
        said = complete(loaded, [prompt_ids(loaded, talk) for talk in talks], max_new_tokens, sampling)
    answers = (Answer([*talk, *each.looked_up], each.text, each.ended, each.said) for talk, each in zip(talks, said))
    return [answer for _, answer in sorted(zip(order, answers), key=lambda each: each[0])]


def book_of(data) -> BookReader | None:
    """The book in the folder of a data set, where its model looks into one."""
    passages = Passages.load(data.folder) if data.searches else None
    return BookReader(passages) if passages else None


def generalised_advantages(rewards: torch.Tensor, values: torch.Tensor, drawing: Drawing) -> torch.Tensor:
    """How much better than expected each token of an answer was, (n,) (Schulman et al. 2015, arXiv:1506.02438).

    rewards, values: (n,), what each token brought, and what was expected before it.
    """
    advantages, later = torch.zeros_like(rewards), 0.0
    following = torch.cat([values[1:], values.new_zeros(1)])
    surprises = rewards + drawing.gamma * following - values
    for place in reversed(range(len(rewards))):
        later = surprises[place] + drawing.gamma * drawing.gae_lambda * later
        advantages[place] = later
    return advantages
