"""The desk that finds hotels: its talks are what they say, and what is measured on them is what was said."""

import json

import pytest

from miniglm.chat import Completion
from miniglm.metrics import answer_scores, read_talks, slot_scores, summary
from miniglm.search import Table, search
from tools import HOTELS, Project, talk


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """{file: its records} of a small desk."""
    project = Project(tmp_path_factory.mktemp("desk") / "clone")
    project.run("data/build_hotel.py", "--talks=400", "--eval_talks=40")
    folder = project.folder / "data/hotel"
    return {
        file: [json.loads(line) for line in (folder / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()]
        for file in ("hotels", "questions", "val", "eval")
    }


def turns(records, role):
    """What is said in a role in some talks."""
    return [turn for record in records for turn in record["messages"] if turn["role"] == role]


def test_each_call_finds_what_is_shown(desk):
    """In the talks that are measured it is what the table gives, and the answer after it holds its name."""
    for record in desk["eval"]:
        for call, found, answer in zip(*(record["messages"][start:] for start in range(3))):
            if call["role"] == "search":
                assert found["records"] == search(desk["hotels"], json.dumps(call["arguments"]))
                assert all(hotel["name"] in answer["content"] for hotel in found["records"])
                assert found["records"] or "没有找到" in answer["content"]


def test_what_is_measured_was_not_trained(desk):
    """No hotel that is found there, and no wording or word of the groups that are named for them."""
    trained = json.dumps(desk["questions"] + desk["val"], ensure_ascii=False)
    names = {hotel["name"] for turn in turns(desk["eval"], "return") for hotel in turn["records"]}
    assert len(names) > 15 and not any(f'"{name}"' in trained for name in names)
    groups = {record["Group"] for record in desk["eval"]}
    assert groups == {"hotels", "new_wording", "new_words"}
    for record in desk["eval"]:
        first = record["messages"][0]["content"]
        if record["Group"] == "new_wording":
            assert first not in trained
        if record["Group"] == "new_words":
            assert any(word not in trained for word in words_looked_at(record["messages"]))
        if record["Group"] == "hotels":
            found = [hotel for turn in record["messages"] for hotel in turn.get("records", ())]
            assert all(word in trained for hotel in found for word in (*hotel["facilities"], hotel["subway"][:-3]))


def words_looked_at(messages):
    """The texts that are searched for or found in a talk, those of two characters of each, too."""
    for turn in messages:
        for fields in (turn.get("arguments", {}), *turn.get("records", ())):
            for value in fields.values():
                for text in value if isinstance(value, list) else [value]:
                    yield from [text, *(text[i : i + 2] for i in range(len(text) - 1))] if isinstance(text, str) else ()


def test_the_same_seed_gives_the_same_talks(desk, tmp_path):
    """Another process writes the same files."""
    project = Project(tmp_path / "clone")
    project.run("data/build_hotel.py", "--talks=400", "--eval_talks=40", process=True)
    again = (project.folder / "data/hotel/questions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in again] == desk["questions"]


CALL = '{"型": "舒适", "有": ["暖气", "泳池"], "价_range_upper": 400}'


def test_numbers_have_bounds():
    """A call may bound a number from either side; a bound on what is no number finds nothing."""
    assert search(HOTELS, '{"价_range_upper": 150}') == [HOTELS[1]]
    assert search(HOTELS, '{"价_range_lower": 329}') == [HOTELS[2]]
    assert search(HOTELS, '{"价_range_lower": 151, "价_range_upper": 328}') == [HOTELS[0]]
    assert search(HOTELS, '{"型_range_upper": 3}') == search(HOTELS, '{"价_range_upper": "三"}') == []


@pytest.mark.parametrize(
    "said, allowed",
    [
        ("答：什么都行", True),
        ("查：" + CALL, True),
        ('查：{"名": "山海"}', True),  # said in the talk
        ('查：{"型": "豪华"}', True),  # stands in the table
        ('查：{"型": "民宿"}', False),
        ('查：{"星": 5}', False),
        ('查：{"价": 12.5}', True),
        ('查：{"价": "便宜"}', False),
        ("查：{}", False),
    ],
)
def test_a_call_asks_for_what_there_is(said, allowed):
    """Columns of the table, with words of the talk or of the table, and numbers."""
    grammar = Table(HOTELS).call_grammar([{"role": "user", "content": "有没有便宜的山海酒店？"}])
    assert may_be_said(grammar, said) == allowed


@pytest.mark.parametrize(
    "said, allowed",
    [
        ('查：{"有": ["暖气", "泳池"], "价_range_upper": 400}', True),
        ('查：{"有": ["泳池"]}', True),
        ('查：{"有": ["暖气", "暖气"]}', False),
        ('查：{"有": ["餐厅"]}', False),  # stands in the table, but others were said
        ('查：{"有": ["暖"]}', False),
        ('查：{"价_range_upper": 500}', False),
    ],
)
def test_what_was_said_is_what_is_asked_for(said, allowed):
    """Values of the table that a question names, whole, each once, and its numbers."""
    grammar = Table(HOTELS).call_grammar([{"role": "user", "content": "要有暖气和泳池，400元以内。"}])
    assert may_be_said(grammar, said) == allowed


def may_be_said(grammar, said):
    """Whether a grammar lets a whole text be said."""
    states = grammar.closure({grammar.start})
    for byte in said.encode("utf-8"):
        if states & grammar.free:
            break
        states = grammar.closure({to for state in states for to in grammar.steps[state].get(byte, ())})
    return bool(states & (grammar.free | grammar.ends))


@pytest.mark.parametrize(
    "said, allowed",
    [
        ("在青年路201号，每晚299元。", True),
        ("在青年路299号。", False),  # the price
        ("每晚201元。", False),  # of the house
        ("每晚29元。", False),
        ("不到800元，评分4.8分！😀", True),  # 800 was said
        ("评分4.", True),
        ("评分4.9分。", False),
        ("电话是051-79959016。", True),
        ("电话是051-299。", False),
        ("没有数。", True),
    ],
)
def test_numbers_of_an_answer_were_found_or_said(said, allowed):
    """Whole ones; that of a house only behind the street that has it."""
    record = {"address": "临河区青年路201号", "price": 299, "rating": 4.8, "phone": "051-79959016", "floor": 4}
    talk = [{"role": "user", "content": "800元以内的有吗？"}]
    grammar = Table([record]).answer_grammar('{"price_range_upper": 800}', (), talk)
    assert may_be_said(grammar, "答：" + said) == allowed


def test_all_questions_of_a_talk_are_measured(tmp_path):
    """Each with the talk before it, the call that is due, and the values that its answer must hold."""
    path = tmp_path / "talks.jsonl"
    path.write_text(json.dumps({"messages": talk(HOTELS[0]), "Group": "甲"}, ensure_ascii=False), encoding="utf-8")
    first, second = read_talks(path)
    assert (
        first["Question"] == "我要住舒适酒店。"
        and first["Call"] == '{"型": "舒适"}'
        and first["Values"] == ["香江酒店"]
    )
    assert second["Call"] == "" and second["Values"] == ["328"] and len(second["Turns"]) == 5
    assert first["Group"] == second["Group"] == "甲"


@pytest.mark.parametrize(
    "answer, call, exact, held",
    [
        ("请住香江酒店，每晚328元。", '{"有": ["泳池", "暖气"], "价": 328.0}', True, True),
        ("请住香江酒店，每晚328元。", '{"有": ["暖气"], "价": 328}', False, True),
        ("请住香江酒店，每晚1328元。", '{"价": 328', False, False),
        ("请住香江酒店，每晚328.5元。", "", False, False),
    ],
)
def test_calls_and_values_are_scored(answer, call, exact, held):
    """The order of a list does not count; a number must stand alone; what is no JSON is no call."""
    question = {"Answer": "", "Call": '{"有": ["暖气", "泳池"], "价": 328}', "Values": ["香江酒店", "328"]}
    scores = answer_scores(Completion(answer, 9, True, 0.1, [{"role": "search", "content": call}]), question, None)
    assert (scores["call_exact"], scores["answer_values"]) == (exact, held)


def test_slots_are_counted_over_all_calls():
    """Precision, recall and F1 of fields with their values, of lists item by item."""
    calls = [
        ('{"有": ["暖气", "泳池"], "价": 328}', '{"有": ["暖气"], "型": "豪华"}'),
        ("", '{"价": 1}'),
        ('{"型": "甲"}', ""),
    ]
    assert slot_scores(calls) == {"slot_precision": 1 / 3, "slot_recall": 1 / 4, "slot_f1": 2 / 7}
    assert slot_scores([("", "")]) == {}
    said = [Completion("好", 1, True, 0.1, [{"role": "search", "content": called}]) for _, called in calls]
    records = [{"Answer": "好", "Call": wanted, "Values": []} for wanted, _ in calls]
    scored = [answer_scores(each, record, None) for each, record in zip(said, records)]
    assert summary(said, scored, records)["slot_f1"] == 2 / 7
    assert summary(said, scored, records)["call_exact"] == 0


def test_a_table_is_measured_on_the_command_line(hotel):
    """What the model knows by heart is right in all; a table without talks is told."""
    hotel.write("hotels.jsonl", "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in HOTELS))
    lines = (json.dumps({"messages": talk(each)}, ensure_ascii=False) + "\n" for each in HOTELS)
    hotel.write("talks.jsonl", "".join(lines))
    words = ["--eval_file=talks.jsonl", "--table=hotels.jsonl", "--save_path=played.json"]
    hotel.run("evaluations.py", "--out_dir=out/hotel", *words)
    metrics = json.loads((hotel.folder / "played.json").read_text(encoding="utf-8"))
    shown = ("call_exact", "slot_f1", "answer_values", "bleu_4")
    assert [metrics["all"][name] for name in shown] == pytest.approx([1, 1, 1, 1])
    assert [metrics[name] for name in shown] == [metrics["all"][name] for name in shown]
    assert metrics["all"]["n"] == 6
    assert "searched in talks" in hotel.fails("evaluations.py", "--out_dir=out/hotel", "--table=hotels.jsonl")
