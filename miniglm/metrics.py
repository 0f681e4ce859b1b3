"""How good a model is, in numbers: scores of generated texts, and the yardsticks that a language model is held against."""

import math
import re
from collections import Counter, defaultdict

import numpy as np
import pyppmd
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from miniglm.errors import refuse
from miniglm.files import read_json_lines

LARGEST_TEXT = 2_000_000  # characters of training text within which copied pieces are looked for


class Characters:
    """Splits a text into its characters, for ROUGE."""

    def tokenize(self, text):
        """The characters but white space, a list."""
        return [c for c in text if not c.isspace()]


def read_questions(path):
    """The records of an evaluation file, a list of dicts. Raises UserError, with the line, for one that lacks something."""
    records = []
    for number, record in read_json_lines(path, 'write {"Question": "…", "Answer": "…"} a line'):
        texts = [record.get(field) for field in ("Question", "Answer")] if isinstance(record, dict) else [None]
        proper = all(isinstance(text, str) and text.strip() for text in texts)
        proper = proper and isinstance(record.get("Group", ""), str)
        proper = proper and all(isinstance(key, str) for key in keys_of(record))
        todo = 'write {"Question": "…", "Answer": "…", "Key": "…"}'
        refuse(not proper, f"{path} line {number} is no question", todo)
        records.append(record)
    return records


def rouge_l(right, answer):
    """ROUGE-L of one answer by character, its F1 (Lin 2004)."""
    return RougeScorer(["rougeL"], tokenizer=Characters()).score(right, answer)["rougeL"].fmeasure


def bleu_4(right, answers):
    """BLEU-4 of all answers together by character, 0 to 1 (Papineni et al. 2002)."""
    return BLEU(tokenize="char", effective_order=True).corpus_score(answers, [right]).score / 100


def distinct(texts, n):
    """The share of different ones among all n-grams of characters (Li et al. 2016)."""
    grams = Counter(text[i : i + n] for text in texts for i in range(len(text) - n + 1))
    return len(grams) / max(1, sum(grams.values()))


def holds_key(answer, record):
    """Whether the answer contains all that a right one must; None where the record has no Key."""
    keys = keys_of(record)
    return all(key in answer for key in keys) if keys else None


def keys_of(record):
    """What a right answer must contain, a list of texts."""
    key = record.get("Key") or []
    return key if isinstance(key, list) else [key]


def loops(text, ended):
    """Whether some four characters stand four times, or the text came to no end."""
    fours = Counter(text[i : i + 4] for i in range(len(text) - 3))
    return not ended or any(count >= 4 for count in fours.values())


def copied_share(text, training_text):
    """The longest piece of `text` that stands in the training text word for word, as a share of the whole."""
    if text in training_text:
        return 1.0
    longest = 0
    for start in range(len(text)):
        while start + longest < len(text) and text[start : start + longest + 1] in training_text:
            longest += 1
    return longest / max(1, len(text))


def mean(values):
    """The mean of what is not None, or None."""
    values = [value for value in values if value is not None]
    return sum(values) / len(values) if values else None


def interval(values):
    """The 95 % confidence interval (low, high) of the mean of what is not None, or None for fewer than two values.

    Of bools after Wilson (1927), of numbers by the percentile bootstrap (Efron 1979).
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


def witten_bell_trigram(train, val):
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


def ppmd(train, val):
    """Bits per character of `val` after `train` in PPMd (Shkarin 2002), of order 6 over UTF-8.

    The size of both compressed, less that of the training text alone. Unlike the model it goes on learning in `val`.
    """

    def bits(text):
        encoder = pyppmd.Ppmd7Encoder(6, 1 << 28)
        return 8 * (len(encoder.encode(text.encode("utf-8"))) + len(encoder.flush()))

    return (bits(train + val) - bits(train)) / len(val)


def bag_of_words(train, records):
    """What logistic regression on which characters and pairs of them stand in a question answers to records.

    train, records: lists of {"Question", "Answer"}. A list of answers.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = CountVectorizer(analyzer="char", ngram_range=(1, 2), binary=True)
    classifier = make_pipeline(words, LogisticRegression(max_iter=1000))
    classifier.fit([record["Question"] for record in train], [record["Answer"] for record in train])
    return classifier.predict([record["Question"] for record in records]).tolist()


def text_scores(made, train_text):
    """{metric: value or None} of one generated text, a Completion; train_text: what the model was trained on, or None."""
    return {
        "loop_share": loops(made.text, made.ended),
        "length": len(made.text),
        "copied_share": copied_share(made.text, train_text) if made.text and train_text is not None else None,
    }


def answer_scores(made, record, train_text, book_text="", refusals=()):
    """{metric: value or None} of one answer, a Completion, to a record {"Question", "Answer", "Key"}.

    book_text: where 「quotations」 must stand. refusals: the Keys of questions that the book cannot answer.
    """
    answer, right = made.text, record["Answer"]
    scores = {
        "accuracy": holds_key(answer, record),
        "exact_match": answer.strip() == right.strip(),
        "rouge_l": rouge_l(right, answer),
    } | text_scores(made, train_text)
    if refusals:
        scores["refusal_share"] = any(refusal in answer for refusal in refusals)
    if book_text:
        quotes = re.findall("「(.+?)」", answer)
        scores["quotes_in_book"] = all(quote in book_text for quote in quotes) if quotes else None
    return scores


def summary(texts, scores, records=None):
    """The metrics of generated texts, Completions, whose scores are known; records: what right answers are, if any.

    "intervals" in it: {metric: (low, high) or None}, see interval, for those that are the mean of the scores.
    """
    by_metric = {metric: [each[metric] for each in scores] for metric in scores[0]}
    metrics = {"n": len(texts)} | {metric: mean(values) for metric, values in by_metric.items()}
    written = [made.text for made in texts]
    if records:
        metrics["bleu_4"] = bleu_4([record["Answer"] for record in records], written)
    return metrics | {
        "distinct_1": distinct(written, 1),
        "distinct_2": distinct(written, 2),
        "tokens_per_second": sum(made.tokens for made in texts) / max(1e-9, sum(made.seconds for made in texts)),
        "intervals": {metric: interval(values) for metric, values in by_metric.items()},
    }
