"""How good a model is, in numbers: scores of generated texts, and yardsticks to hold a language model against.

A generated text is a Completion, see chat.py; a question is {"Question", "Answer", "Key", "Group"}, see read_questions.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyppmd
from rapidfuzz.distance import Indel
from sacrebleu.metrics.bleu import BLEU

from miniglm.errors import UserError, refuse
from miniglm.records import (
    ANY,
    MEANING,
    BadRecord,
    Turn,
    fields_of,
    is_empty,
    kind,
    question_of,
    quoted,
    read_prompts,
    read_records,
    tell_changes,
    turns_of,
    unlike,
)

LARGEST_TEXT = 1_000_000  # characters of training text within which copied pieces are looked for

NOBODY: Mapping[str, Sequence[str]] = {}
GREETING = "greeting"  # the group of questions that a courtesy answers
CANNOT = re.compile("[这這][个個]我答不了。")
COURTEOUS = re.compile("我|你好|再[见見]|[谢謝]|客[气氣]|[欢歡]迎")
TELLS = re.compile("[「」]|[书書]中[没沒]有|最早[见見]|又[称稱]|所[杀殺]")  # the forms in which facts are told


def read_questions(path, wanted: Mapping[str, list[str]] = ANY) -> list[dict]:
    """The questions of an evaluation file, whose records may have any form that records.py reads.

    Each is a dict of "Question" and "Answer", texts, with "Key" and "Group" and all else that its record has. An answer
    that is not given is "". "Turns" is the conversation up to where the answer is to come, where it is more than the
    question. wanted: see records.conditions. Raises UserError, with the line, for a record that is no question, and for
    one that has neither an answer nor a field Key, which may be empty, where others have. A file in which none has is
    a list of questions, which may stand a line each.
    """
    questions, changes, unanswered = [], Counter(), None
    todo, lines = 'write {"Question": "…", "Answer": "…", "Key": "…"}', Path(path).suffix == ".txt"
    for place, record in () if lines else read_records(path):
        if record is not None and unlike(record, wanted):
            continue
        try:
            questions.append(question_in(record, changes))
        except Unanswered as reason:
            unanswered = unanswered or f"{path} {place} {reason}"
        except BadRecord as reason:
            raise UserError(f"{path} {place} {reason}", todo) from reason
    refuse(unanswered and questions, str(unanswered), todo)
    if not questions:
        none = f"{path} has no such record" if wanted else f"{path} is empty"
        refuse(not unanswered and not lines, none, todo + " a line")
        questions = [asked(turns) | {"Answer": ""} for turns in read_prompts(path, wanted)]
        print(f"{path}: {len(questions):,} questions without answers: nothing is counted as right or wrong")
    tell_changes(path, changes)
    return questions


class Unanswered(BadRecord):
    """Why a record tells no right answer, though it asks something."""


def asked(turns: Sequence[Turn]) -> dict:
    """{"Question": the last one of a conversation}, and its "Turns" where it is more than that."""
    question = next(turn["content"] for turn in reversed(turns) if turn["role"] == "user")
    return {"Question": question} | ({"Turns": turns} if len(turns) > 1 else {})


def question_in(record, changes: Counter) -> dict:
    """The question in a record, see read_questions; what is changed is added to `changes`. Raises BadRecord."""
    found = fields_of(record) if isinstance(record, dict) else {}
    rest = dict(found[name] for name in found if name not in MEANING | {"key", "group"})
    for name in ("Key", "Group"):
        field, value = found.get(name.lower(), (name, None))
        texts = value if isinstance(value, list) and name == "Key" else ["" if is_empty(value) else value]
        if any(type(text) in (int, float) for text in texts):
            changes[f"had a number for {quoted(field)} read as text"] += 1
            texts = [str(text) if type(text) in (int, float) else text for text in texts]
        if not all(isinstance(text, str) for text in texts):
            raise BadRecord(f"has {kind(value)} for {quoted(field)} where a text was to be")
        if any(texts) or name == "Key" and "key" in found:
            rest[name] = texts if isinstance(value, list) else texts[0]
    talk = question_of(record)
    turns, answer = talk.turns, ""
    try:
        answered = turns_of(record)
    except BadRecord as reason:
        if "key" not in found:
            raise Unanswered(str(reason)) from reason
    else:
        if not rest.get("Key") or len(answered.turns) > len(turns):  # else the Key is to a question that trails
            talk, turns, answer = answered, answered.turns[:-1], answered.turns[-1]["content"]
    changes.update(talk.changes)
    return asked(turns) | {"Answer": answer} | rest


def read_talks(path, wanted: Mapping[str, list[str]] = ANY) -> list[dict]:
    """All questions in the talks of a file, each a dict of "Question", "Turns", the talk up to it, and "Answer".

    "Call" is what is searched for before the answer, JSON, "" for nothing. "Values" are the texts and numbers, out of
    what was found in the talk so far, that the answer holds. wanted: see records.conditions. Raises UserError where a
    record is no talk.
    """
    questions = []
    for place, record in read_records(path):
        if unlike(record, wanted):
            continue
        try:
            turns = turns_of(record).turns
        except BadRecord as reason:
            raise UserError(f"{path} {place} {reason}", "give talks of user, search, return and assistant") from reason
        group = {"Group": record["Group"]} if isinstance(record, dict) and record.get("Group") else {}
        starts = [number for number, turn in enumerate(turns) if turn["role"] == "user"]
        for start, stop in zip(starts, [*starts[1:], len(turns)]):
            answer = turns[stop - 1]["content"]
            calls = [turn["content"] for turn in turns[start:stop] if turn["role"] == "search"]
            found = [turn["content"] for turn in turns[:stop] if turn["role"] == "return"]
            values = [value for text in found for value in values_in(text) if holds_value(answer, value)]
            question = asked(turns[: start + 1]) | {"Answer": answer}
            questions.append(question | {"Call": "".join(calls), "Values": list(dict.fromkeys(values))} | group)
    refuse(not questions, f"{path} is empty", "give talks, one a line")
    return questions


def values_in(found: str) -> list[str]:
    """The texts and numbers in what a search found, JSON; none where it is no JSON."""
    todo, values = [parsed(found)], []
    while todo:
        value = todo.pop()
        if isinstance(value, dict | list):
            todo += value.values() if isinstance(value, dict) else value
        elif value is not None and str(value):
            values.append(str(value))
    return values


def holds_value(answer: str, value: str) -> bool:
    """Whether a value stands in an answer, a number as a whole one."""
    return bool(re.search(rf"(?<![\d.]){re.escape(value)}(?!\.?\d)", answer))


def parsed(text: str):
    """A JSON value; None where the text is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def slots_of(call: str) -> set[tuple[str, str]]:
    """The (field, value) that a call asks for, JSON; of a list each item."""
    fields = parsed(call)
    fields = fields if isinstance(fields, dict) else {}
    pairs = (
        (field, each) for field, value in fields.items() for each in (value if isinstance(value, list) else [value])
    )
    return {(field, f"{each:g}" if isinstance(each, float) else str(each)) for field, each in pairs}


def slot_scores(calls: Sequence[tuple[str, str]]) -> dict:
    """Precision, recall and F1 of the slots in calls, (right, called), over all together; {} where there are none."""
    right = sum(len(slots_of(wanted) & slots_of(called)) for wanted, called in calls)
    wanted = sum(len(slots_of(wanted)) for wanted, _ in calls)
    called = sum(len(slots_of(called)) for _, called in calls)
    if not wanted:
        return {}
    scores = {"slot_precision": right / max(1, called), "slot_recall": right / wanted}
    return scores | {"slot_f1": 2 * right / (wanted + called)}


def pair_scores(margins: Sequence[float]) -> dict:
    """How well a model tells better answers from worse ones. margins: by how much it puts each better one above.

    "pair_accuracy"; "loss", -log of the logistic function's probability; "calibration_error": how far, on average, the
    probability of its own choice is from how often that is right, over ten bins of equal width (Guo et al. 2017).
    """
    found = np.asarray(margins, float)
    sure, right = 1 / (1 + np.exp(-np.abs(found))), found > 0
    bins = np.minimum((20 * (sure - 0.5)).astype(int), 9)
    gaps = [abs(sure[bins == number].sum() - right[bins == number].sum()) for number in range(10)]
    return {
        "n": len(found),
        "pair_accuracy": float(right.mean()),
        "loss": float(np.logaddexp(0, -found).mean()),
        "calibration_error": float(sum(gaps) / len(found)),
    }


def rouge_l(right: str, answer: str) -> float:
    """ROUGE-L of one answer by character, white space apart, 0 to 1: its F1 (Lin 2004).

    That is the similarity of two texts that are edited by inserting and deleting alone: 2 LCS / (m + n).
    """
    right, answer = "".join(right.split()), "".join(answer.split())
    return Indel.normalized_similarity(right, answer) if right and answer else 0.0


def bleu_4(right: list[str], answers: list[str]) -> float:
    """BLEU-4 of all answers together by character, 0 to 1 (Papineni et al. 2002)."""
    return BLEU(tokenize="char", effective_order=True).corpus_score(answers, [right]).score / 100


def distinct(texts: list[str], n: int) -> float:
    """The share of different ones among all n-grams of characters (Li et al. 2016)."""
    grams = Counter(text[i : i + n] for text in texts for i in range(len(text) - n + 1))
    return len(grams) / max(1, sum(grams.values()))


def is_right(answer: str, record: dict, people: Mapping[str, Sequence[str]] = NOBODY) -> bool | None:
    """Whether an answer is right; None where the record says nothing of that.

    With a Key: it contains all of it, somebody's name by any of their names. people: {name: all their names}. Where the
    Key is empty: it says that it cannot answer, or in the group greeting it is courteous and tells nothing of a book.
    """
    if "Key" not in record:
        return None
    if keys := keys_of(record):
        return all(any(name in answer for name in people.get(key, [key])) for key in keys)
    if CANNOT.search(answer):
        return True
    courteous = GREETING in (record.get("Group"), record.get("Kind")) and COURTEOUS.search(answer)
    return bool(courteous) and not TELLS.search(answer)


def keys_of(record: dict) -> list[str]:
    """What a right answer to a record must contain, all of it; empty where the record has no Key."""
    key = record.get("Key") or []
    return list(filter(None, key)) if isinstance(key, list) else [key]


def loops(text: str, ended: bool) -> bool:
    """Whether some four characters stand four times in a text, or it came to no end."""
    fours = Counter(text[i : i + 4] for i in range(len(text) - 3))
    return not ended or any(count >= 4 for count in fours.values())


def copied_share(text: str, training_text: str) -> float:
    """The longest piece of `text` that stands in the training text word for word, as a share of `text`."""
    if text in training_text:
        return 1.0
    longest = 0
    for start in range(len(text)):
        while start + longest < len(text) and text[start : start + longest + 1] in training_text:
            longest += 1
    return longest / max(1, len(text))


def mean(values) -> float | None:
    """The mean of the values that are not None, or None where there are none."""
    values = [value for value in values if value is not None]
    return sum(values) / len(values) if values else None


def interval(values) -> tuple[float, float] | None:
    """The 95 % confidence interval (low, high) of the mean of the values that are not None; None for fewer than two.

    Of bools it is Wilson's (1927), of numbers that of the percentile bootstrap (Efron 1979).
    """
    values = [value for value in values if value is not None]
    if len(values) < 2:
        return None
    from scipy.stats import binomtest, bootstrap

    if all(isinstance(value, bool) for value in values):
        found = binomtest(sum(values), len(values)).proportion_ci(method="wilson")
    elif len(set(values)) == 1:
        return values[0], values[0]
    else:
        drawn = {"n_resamples": 2000, "batch": 100, "method": "percentile", "rng": 0}
        found = bootstrap([np.array(values, float)], np.mean, **drawn).confidence_interval
    return float(found.low), float(found.high)


def witten_bell_trigram(train: str, val: str) -> float:
    """Bits per character of `val` under a character trigram of `train`, interpolated after Witten and Bell (1991)."""
    orders = [defaultdict(Counter) for _ in range(3)]
    for i, character in enumerate(train):
        for n in range(min(3, i + 1)):
            orders[n][train[i - n : i]][character] += 1
    totals = [{context: sum(c.values()) for context, c in order.items()} for order in orders]
    characters = len(set(train)) + 1  # one more for all that the training text lacks
    bits = 0.0
    for i, character in enumerate(val):
        p = 1 / characters
        for n in range(min(3, i + 1)):
            context = val[i - n : i]
            if seen := orders[n].get(context):
                p = (seen[character] + len(seen) * p) / (totals[n][context] + len(seen))
        bits -= math.log2(p)
    return bits / len(val)


def ppmd(train: str, val: str) -> float:
    """Bits per character of `val` after `train` in PPMd (Shkarin 2002), of order 6 over UTF-8.

    The size of both compressed together, less that of `train` alone. Unlike a model, PPMd goes on learning in `val`.
    """

    def bits(text):
        encoder = pyppmd.Ppmd7Encoder(6, 1 << 28)
        return 8 * (len(encoder.encode(text.encode("utf-8"))) + len(encoder.flush()))

    return (bits(train + val) - bits(train)) / len(val)


def bag_of_words(train: list[dict], records: list[dict]) -> list[str]:
    """The answers to records of a classifier that has learnt from the records `train`.

    It is a logistic regression on which characters and pairs of characters stand in a question.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = CountVectorizer(analyzer="char", ngram_range=(1, 2), binary=True)
    classifier = make_pipeline(words, LogisticRegression(max_iter=1000))
    classifier.fit([record["Question"] for record in train], [record["Answer"] for record in train])
    return classifier.predict([record["Question"] for record in records]).tolist()


def text_scores(completion, train_text: str | None) -> dict:
    """{metric: value or None} of one generated text; train_text: what the model was trained on, None where unknown."""
    text = completion.text
    return {
        "loop_share": loops(text, completion.ended),
        "length": len(text),
        "copied_share": copied_share(text, train_text) if text and train_text is not None else None,
    }


def answer_scores(completion, record: dict, train_text: str | None, book_text="", refusals=(), people=NOBODY) -> dict:
    """{metric: value or None} of one generated answer to a record. people: see is_right.

    train_text: what the model was trained on, None where unknown. book_text: where 「quotations」 must stand.
    refusals: the Keys of questions that the book cannot answer.
    """
    answer, right = completion.text, record["Answer"]
    scores = {
        "accuracy": is_right(answer, record, people),
        "exact_match": answer.strip() == right.strip() if right else None,
        "rouge_l": rouge_l(right, answer) if right else None,
    } | text_scores(completion, train_text)
    if completion.places:
        shown = answer + "".join(place.text + place.where for place in completion.places)
        scores["accuracy_with_places"] = is_right(shown, record, people)
    else:
        scores["accuracy_with_places"] = scores["accuracy"]
    if "Call" in record:
        wanted, called = record["Call"], completion.call
        same = slots_of(wanted) == slots_of(called) and bool(slots_of(wanted))
        scores["call_exact"] = same if wanted or called else None
        held = [holds_value(answer, value) for value in record["Values"]]
        scores["answer_values"] = all(held) if held else None
    if refusals:
        scores["refusal_share"] = any(refusal in answer for refusal in refusals)
    if book_text:
        quotes = re.findall("「(.+?)」", answer)
        scores["quotes_in_book"] = all(quote in book_text for quote in quotes) if quotes else None
    return scores


def summary(completions, scores: list[dict], records: list[dict] | None = None) -> dict:
    """The metrics of generated texts together. scores: of each. records: the questions that they answer, if any.

    "intervals" in it: {metric: (low, high) or None}, see interval, for those metrics that are means of the scores.
    """
    by_metric = {metric: [each[metric] for each in scores] for metric in scores[0]}
    metrics = {"n": len(completions)} | {metric: mean(values) for metric, values in by_metric.items()}
    texts = [completion.text for completion in completions]
    if records:
        pairs = [(record["Answer"], text) for record, text in zip(records, texts) if record["Answer"]]
        metrics["bleu_4"] = bleu_4(*map(list, zip(*pairs))) if pairs else None
        calls = [(record.get("Call", ""), each.call) for record, each in zip(records, completions)]
        metrics |= slot_scores(calls)
    seconds = sum(completion.seconds for completion in completions)
    return metrics | {
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "tokens_per_second": sum(completion.tokens for completion in completions) / max(1e-9, seconds),
        "intervals": {metric: interval(values) for metric, values in by_metric.items()},
    }
