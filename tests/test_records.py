"""Records in the forms that people bring: every spelling is read, and what is changed or left out is told."""

import codecs
import json

import pytest

from miniglm.errors import UserError
from miniglm.records import BadRecord, plain, question_of, read_prompts, read_records, turns_of

ASKED, ANSWERED = {"role": "user", "content": "甲？"}, {"role": "assistant", "content": "乙。"}
RECORD = {"Question": "甲？", "Answer": "乙。"}


def read(record):
    """The contents of a record's turns, each with its role's first letter, and what was changed."""
    talk = turns_of(record)
    return [f"{turn['role'][0]} {turn['content']}" for turn in talk.turns], talk.changes


def refusal(record):
    """Why a record is left out."""
    with pytest.raises(BadRecord) as caught:
        turns_of(record)
    return str(caught.value)


@pytest.mark.parametrize("field", ["messages", "conversations", "conversation", "Dialog", "dialogue", "chat", "turns"])
@pytest.mark.parametrize(
    "who, what", [("from", "value"), ("role", "content"), ("from", "content"), ("role", "value"), ("speaker", "text")]
)
@pytest.mark.parametrize(
    "user, assistant", [("Human", "GPT"), ("USER", "Assistant"), ("human", "bot"), ("user", "model")]
)
def test_whoever_speaks_under_whatever_name_is_heard(field, who, what, user, assistant):
    """Every pair of names for who and what, in any capitals."""
    turns = [{who: "System", what: "子。"}, {who: user, what: "甲？"}, {who.title(): assistant, what.upper(): "乙。"}]
    assert read({"id": 1, field: turns}) == (["s 子。", "u 甲？", "a 乙。"], [])


@pytest.mark.parametrize(
    "names",
    [
        "question/answer", "Question/Answer", "QUESTION/ANSWER", "prompt/completion", "prompt/response", "q/a", "Q/A",
        "query/response", "instruction/output", "Instruction/Response", "input/output", "input/target", "问/答",
        "question/response", "问题/回答", "问题/答案", "human/assistant", "user/bot", "problem/solution", "text/label",
        "content/summary", "問題/答案", "輸入/回覆", "問題/參考答案", "问题/标准答案",
    ],
)  # fmt: skip
def test_a_question_and_its_answer_may_be_called_anything_usual(names):
    """In any capitals; the form is known by its two names."""
    question, answer = names.split("/")
    talk = turns_of({question: "甲？", answer: "乙。", "source": "books"})
    assert talk.turns == [ASKED, ANSWERED] and talk.changes == []
    usual = "Question", "Alpaca", "Safety-Prompts", "Firefly", "MOSS"
    assert talk.form in (*usual, f"{plain(question)}/{plain(answer)}")


@pytest.mark.parametrize(
    "talk",
    [
        {"conversations": {"from": ["human", "gpt"], "value": ["甲？", "乙。"]}},
        {"messages": {"content": ["甲？", "乙。"], "role": ["user", "assistant"]}},
        {"conversation": {"assistant": "乙。", "user": "甲？"}},
        {"messages": {"role": "user", "content": "甲？"}, "output": "乙。"},
        {"messages": [ASKED], "answer": "乙。"},
        {"messages": [ASKED], "completion": [ANSWERED]},
        {"messages": json.dumps([ASKED, ANSWERED])},
        {"question": "甲？", "answer": "乙。", "history": "[]", "input": float("nan")},
        {"對話": [{"角色": "用戶", "內容": "甲？"}, {"角色": "助手", "內容": "乙。"}]},
        {"messages": [{"role": "患者", "content": "甲？"}, {"role": "医生", "content": "乙。"}]},
        {"messages": [{"role": "客户", "content": "甲？"}, {"role": "客服", "content": "乙。"}]},
    ],
)
def test_a_conversation_comes_as_tables_and_tools_write_it(talk):
    """As columns, one exchange, a question whose answer stands beside it, JSON in a text, in traditional characters."""
    assert read(talk) == (["u 甲？", "a 乙。"], [])


@pytest.mark.parametrize("answer", ["答案", "answer"])
def test_an_exam_is_asked_with_its_options(answer):
    """The answer is the letter in its own field, never what option A says."""
    exam = {"question": "谁字翼德？", "A": "刘备", "B": "张飞", "C": 3, "D": None, answer: "B"}
    put = ["had a number read as text", "had its options put under its question"]
    assert read(exam) == (["u 谁字翼德？\nA. 刘备\nB. 张飞\nC. 3", "a B"], put)
    assert "without an answer" in refusal({"question": "谁字翼德？", "A": "刘备", "B": "张飞"})
    assert read({"Q": "甲？", "A": "乙。", "text": "子", "label": 1})[0] == ["u 甲？", "a 乙。"]


@pytest.mark.parametrize(
    "record, field",
    [
        ({"prompt": "甲？", "completion": "乙。", "label": False}, "label"),
        ({"messages": [ASKED, ANSWERED], "kto_tag": False}, "kto_tag"),
        ([ASKED, ANSWERED | {"weight": 0}], "weight"),
        ([ASKED, ANSWERED | {"loss": False}], "loss"),
    ],
)
def test_an_answer_that_is_marked_as_bad_is_not_learnt(record, field):
    """It can still be asked for; a mark on a question says nothing."""
    assert refusal(record) == f'is marked as a bad answer ("{field}")'
    assert question_of(record).turns == [ASKED]
    assert read([ASKED | {"loss": False}, ANSWERED | {"weight": 1}]) == (["u 甲？", "a 乙。"], [])
    assert read({"text": "甲？", "label": 0})[0] == ["u 甲？", "a 0"]


HISTORIES = {
    "pairs": [["一？", "一。"], ["二？", "二。"]],
    "messages": [
        {"role": "user", "content": "一？"},
        {"role": "assistant", "content": "一。"},
        {"from": "human", "value": "二？"},
        {"from": "gpt", "value": "二。"},
    ],
    "questions and answers": [{"question": "一？", "answer": "一。"}, {"human": "二？", "assistant": "二。"}],
    "texts by turns": ["一？", "一。", "二？", "二。"],
}


@pytest.mark.parametrize("history", HISTORIES)
def test_history_and_system_become_turns(history):
    """Twelve answers to one question are twelve conversations; what the instruction is about goes under it."""
    record = {"instruction": "那下一章呢？", "input": "第二章", "output": "第三章。", "system": "只答章名。"}
    past = ["s 只答章名。", "u 一？", "a 一。", "u 二？", "a 二。"]
    assert read(record | {"history": HISTORIES[history]}) == ([*past, "u 那下一章呢？\n第二章", "a 第三章。"], [])
    assert turns_of(record | {"history": HISTORIES[history]}).form == "Alpaca"
    for empty in ([], None, ""):
        assert read(record | {"history": empty, "system": empty})[0] == ["u 那下一章呢？\n第二章", "a 第三章。"]


@pytest.mark.parametrize("name", ["system", "System", "system_prompt", "meta_instruction"])
def test_a_system_beside_the_conversation_comes_first(name):
    """ShareGPT's way; one that stands in the conversation too is not said twice."""
    record = {"conversations": [{"from": "human", "value": "甲？"}, {"from": "gpt", "value": "乙。"}], name: "子。"}
    assert read(record | {"tools": "[]"}) == (["s 子。", "u 甲？", "a 乙。"], [])
    assert read({name: "子。", "messages": [{"role": "system", "content": "子。"}, ASKED, ANSWERED]}) == (
        ["s 子。", "u 甲？", "a 乙。"], [],
    )  # fmt: skip


def test_pairs_may_have_a_system_or_one_half():
    """As XTuner writes them, and as a turn by itself."""
    assert read({"conversation": [{"system": "子。", "input": "甲？", "output": "乙。"}]})[0] == [
        "s 子。",
        "u 甲？",
        "a 乙。",
    ]
    assert read({"conversation": [{"human": "甲？"}, {"assistant": "乙。"}]})[0] == ["u 甲？", "a 乙。"]
    assert read(["甲？", "乙。", "丙？", "丁。"])[0] == ["u 甲？", "a 乙。", "u 丙？", "a 丁。"]
    assert read({"prompt": [ASKED], "completion": [ANSWERED]})[0] == ["u 甲？", "a 乙。"]


def test_an_answer_before_the_first_question_and_a_question_after_the_last_answer_are_left_out():
    """And told; two turns of one role are joined."""
    greeting, thanks = {"role": "assistant", "content": "你好。"}, {"role": "user", "content": "谢谢"}
    assert read([greeting, ASKED, ANSWERED, thanks]) == (
        ["u 甲？", "a 乙。"],
        ["had its leading answer left out", "had its trailing question left out"],
    )
    joined = ["had neighbouring turns of one role joined"]
    assert read([ASKED, thanks, ANSWERED, ANSWERED]) == (["u 甲？\n谢谢", "a 乙。\n乙。"], joined)
    assert refusal([greeting, ASKED]) == "does not end with an answer"
    search, found = {"role": "search", "arguments": {"型": 1}}, {"role": "return", "records": []}
    assert read([ASKED, search, found, ANSWERED])[0] == ["u 甲？", 's {"型": 1}', "r []", "a 乙。"]
    assert read([ASKED, search, found, found, ANSWERED])[0][2:4] == ["r []", "r []"]  # of two calls at once
    for turns in ([ASKED, search, search, found, ANSWERED], [ASKED, ANSWERED, search, found, ANSWERED]):
        assert refusal(turns).startswith("has a role out of turn: search after ")
    assert refusal([ASKED, ANSWERED, ASKED, search, found]) == "does not end with an answer"


def test_a_picture_is_no_question():
    """The text beside it is kept and the loss is told; a picture alone leaves nothing to ask."""
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.jpg"}}
    asked = {"role": "user", "content": [picture, {"type": "text", "text": "甲？"}]}
    assert read([asked, ANSWERED]) == (["u 甲？", "a 乙。"], ['had its "image_url" left out'])
    asked["content"] = [{"image": "a.jpg"}, {"text": "甲？"}]
    assert read([asked, ANSWERED]) == (["u 甲？", "a 乙。"], ['had its "image" left out'])
    asked["content"] = [picture]
    assert refusal([asked, ANSWERED]) == 'has no text in "content", only "image_url"'
    record = {"messages": [{"role": "user", "content": "<image>\n甲？"}, ANSWERED], "images": ["a.jpg"]}
    assert read(record) == (["u 甲？", "a 乙。"], ['had its "images" left out'])


@pytest.mark.parametrize("field", ["tools", "images", "reasoning_content", "Complex_CoT", "options", "think"])
def test_what_means_something_and_becomes_no_turn_is_told(field):
    """In the record or in a message; an empty one says nothing."""
    change = [f'had its "{field}" left out']
    assert read(RECORD | {field: "丙"}) == (["u 甲？", "a 乙。"], change)
    assert read([ASKED, ANSWERED | {field: ["丙"]}]) == (["u 甲？", "a 乙。"], change)
    for empty in ("[]", "", None, [], {}):
        assert read(RECORD | {field: empty}) == read([ASKED, ANSWERED | {field: empty}]) == (["u 甲？", "a 乙。"], [])


def test_a_second_answer_is_told():
    """Of two fields that could be the answer one counts; the other is not dropped in silence."""
    assert read(RECORD | {"solution": "丙。"}) == (["u 甲？", "a 乙。"], ['had its "solution" left out'])
    assert read(RECORD | {"answer": "丙。"}) == (["u 甲？", "a 乙。"], ['had its "answer" left out'])
    assert read(RECORD | {"solution": 3}) == (["u 甲？", "a 乙。"], ['had its "solution" left out'])
    assert read(RECORD | {"chat": "丙"}) == (["u 甲？", "a 乙。"], ['had its "chat" left out'])
    assert read(RECORD | {"title": "丙"}) == (["u 甲？", "a 乙。"], ['had its "title" left out'])
    assert read([ASKED, ANSWERED | {"text": "丙。"}]) == (["u 甲？", "a 乙。"], ['had its "text" left out'])
    assert read({"prompt": "甲？", "messages": [ASKED, ANSWERED]}) == (["u 甲？", "a 乙。"], [])


@pytest.mark.parametrize("subject", ["context", "passage", "document", "article", "背景知识", "背景知識"])
def test_what_a_question_is_about_goes_under_it(subject):
    """Reading comprehension is nothing without what was read."""
    assert read(RECORD | {subject: "子。"}) == (["u 甲？\n子。", "a 乙。"], [])


@pytest.mark.parametrize("calls", ["tool_calls", "function_call"])
def test_a_call_of_a_tool_is_a_search(calls):
    """Its arguments, from a list, an object or their JSON; the tool's name is left out, which is told."""
    call = {"name": "find", "arguments": '{"型": 1}'}
    found = {"role": "tool", "content": "香江"}
    for value in ([{"function": call}], [call], call, json.dumps([call])):
        said = {"role": "assistant", "content": None, calls: value}
        turns, changes = read([ASKED, said, found, ANSWERED])
        assert turns == ["u 甲？", 's {"型": 1}', "r 香江", "a 乙。"]
        assert changes == ["had the name of a called tool left out"]
    assert "without" in refusal([ASKED, {"role": "assistant", calls: [1]}, found, ANSWERED])


KNOWN = "has no known form: "
NOT_ANSWERED, NOT_ASKED = 'an answer ("answer", "response", …)', 'a question ("question", "prompt", …)'


@pytest.mark.parametrize(
    "record, reason",
    [
        (
            {"question": "甲？", "answr": "乙。"},
            f'{KNOWN}"question" without {NOT_ANSWERED}; it has "question", "answr"',
        ),
        ({"reply": "乙。"}, f'{KNOWN}"reply" without {NOT_ASKED}; it has "reply"'),
        ({"some": "thing"}, 'has no known form; it has "some"'),
        ({"Question": "甲？", "Answer": None}, 'has an empty "Answer"'),
        ({"Question": " ", "Answer": "乙。"}, 'has an empty "Question"'),
        ({"Question": "甲？", "Answer": True}, 'has true or false for "Answer" where a text was to be'),
        ({"Question": {"a": 1}, "Answer": "乙。"}, 'has an object for "Question" where a text was to be'),
        ({"question": "甲？", "answer": float("nan")}, 'has an empty "answer"'),
        ({"question": "甲？", "answer": ["乙", "丙"]}, 'has a list for "answer" where a text was to be'),
        ({"messages": "甲"}, 'has a text for "messages" where a list was to be'),
        ({"dialogue": "甲：在吗", "summary": "乙。"}, 'has a text for "dialogue" where a list was to be'),
        ({"history": [["", "乙。"]], "question": "丙？", "answer": "丁。"}, 'has an empty turn in "history"'),
        ({"messages": ["甲？", " "]}, 'has an empty turn in "messages"'),
        (["question", "answer"], 'has names of fields in "list" where texts were to be'),
        (None, "is no JSON, or has a name twice in an object"),
        ({"instruction": "甲？", "output": "乙。", "history": "丙"}, 'has a text for "history" where a list was to be'),
        ([{"role": "user", "content": None}, ANSWERED], 'has an empty "content"'),
        ([{"role": None, "content": "甲"}, ANSWERED], 'has null for "role" where a role was to be'),
        ([{"role": "judge\x1b", "content": "甲"}, ANSWERED], 'has an unknown role "judge?"'),
        (
            [ASKED, {"role": "assistant", "contnt": "乙"}],
            'has a turn without a text ("content", "value", …); it has "role", "contnt"',
        ),
        (
            {"conversations": [{"messages": [ASKED, ANSWERED]}]},
            'has a conversation in "conversations" where a turn was to be',
        ),
    ],
)
def test_the_reason_names_the_field_and_what_was_found(record, reason):
    """So that whoever reads it knows what to mend."""
    assert refusal(record) == reason


def test_odd_values_are_never_kept_in_silence():
    """A number is read as text; half an emoji and control characters go; a whole emoji, tabs and line ends stay."""
    assert read({"question": "1+1=?", "answer": 2}) == (["u 1+1=?", "a 2"], ["had a number read as text"])
    change = ["had control characters or halves of characters left out"]
    assert read({"Question": "\ud83d半个表情？", "Answer": "坏\0字"}) == (["u 半个表情？", "a 坏字"], change)
    assert read({"Question": "😀\t甲\r\n乙？", "Answer": "丙"})[1] == []
    assert read({"question": 10**400, "answer": 0.5})[0] == [f"u 1{'0' * 400}", "a 0.5"]
    assert refusal({"Question": "甲？", "Answer": "\0"}) == 'has an empty "Answer"'


def test_a_question_alone_can_be_asked():
    """With the turns before it; of a conversation the last question, whether it has an answer or not."""
    assert question_of({"question": "甲？"}).turns == [ASKED]
    assert question_of([ASKED, ANSWERED, {"role": "user", "content": "丙？"}]).turns[-1]["content"] == "丙？"
    assert question_of([ASKED, ANSWERED]).turns == [ASKED]
    assert question_of({"Question": "甲？", "Answer": None}).turns == [ASKED]


def pretty(*values, indent=2):
    """JSON values over several lines each, one after the other."""
    return "\n".join(json.dumps(value, ensure_ascii=False, indent=indent) for value in values)


LINE = json.dumps(RECORD, ensure_ascii=False)
TALK = [ASKED, ANSWERED]
SHAPES = {  # a file with two records
    "lines": f"{LINE}\n{LINE}",
    "two files in one": f"{LINE}\n\ufeff{LINE}\n",
    "blank lines": f"\n{LINE}\r\n\r\n  \n{LINE}\r\n",
    "lines with commas": f"{LINE},\n{LINE},\n",
    "objects over several lines": pretty(RECORD, RECORD),
    "with blank lines": pretty(RECORD) + "\n\n\n" + pretty(RECORD) + "\n\n",
    "with Windows' line ends": pretty(RECORD, RECORD, indent="\t").replace("\n", "\r\n"),
    "without any space between": pretty(RECORD) + pretty(RECORD),
    "conversations over several lines": pretty({"messages": TALK}, {"messages": TALK}),
    "bare conversations over several lines": pretty(TALK, TALK),
    "a list on a line": json.dumps([RECORD, RECORD]),
    "a list over several lines": pretty([RECORD, RECORD]),
    "a list, a record a line": f"[\n{LINE},\n{LINE}\n]\n",
    "a list with a comma too many": f"[{LINE},\n{LINE},\n]",
    "two lists": pretty([RECORD], [RECORD]),
    "a list of two records a line": f"[{LINE}, {LINE}]\n\n",
    "two lists of a record, a line each": f"[{LINE}]\n[{LINE}]\n",
    "several records in a list of lists": json.dumps([[RECORD, RECORD]]),
    "with tabs in strings": f"{LINE}\n{LINE}".replace("Question", "\tQuestion"),
    "a list of conversations": pretty([TALK, TALK]),
    "an object of lists": json.dumps({"A": [RECORD], "B": [RECORD]}),
    "an object of lists over several lines": pretty({"A": [RECORD], "B": [RECORD]}),
    "a list in an object that tells more": pretty({"version": "1", "data": [RECORD, RECORD]}),
    "a list below its title": json.dumps({"title": "子", "description": "丑", "data": [RECORD, RECORD]}),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("marked", [True, False])
def test_a_file_of_any_shape_is_read(tmp_path, shape, encoding, marked):
    """Its records one after the other, with or without a byte order mark; what is read does not depend on the shape."""
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    (tmp_path / "records").write_bytes(mark * marked + SHAPES[shape].encode(encoding))
    found = [record for _, record in read_records(tmp_path / "records")]
    assert len(found) == 2 and all(turns_of(record).turns == [ASKED, ANSWERED] for record in found)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("listed", [False, True])
def test_values_are_the_same_in_lines_and_lists(tmp_path, listed, indent):
    """Half an emoji, a number of many digits, brackets in a long text: nothing is replaced on the way."""
    record = {"Question": '\ud83d [{"\\\n', "n": 10**30, "x": [1.5, True, None], "long": "字\u2028[" * 200_000}
    (tmp_path / "records").write_text(json.dumps([record] if listed else record, indent=indent), encoding="utf-8")
    assert [found for _, found in read_records(tmp_path / "records")] == [record]


@pytest.mark.parametrize(
    "text, places",
    [
        (f"{LINE}\n{{broken\n{LINE}", "line 2"),
        (pretty(RECORD) + '\n{\n "a": 1,\n "b": }\n' + pretty(RECORD), "item 2"),
        (pretty(RECORD) + "\nbroken\n" + pretty(RECORD), "item 2"),
        ('{\n "a": 1,\n "b": }\n' + pretty(RECORD, RECORD), "item 1"),
        (f"[{LINE}, {{broken}}, {LINE}]", "item 2"),
        (f"[{{broken}}, {LINE}, {LINE}]", "item 1"),
        (f"[\n{{broken}},\n{LINE},\n{LINE}\n]", "item 1"),
        (f"[[{{broken}}], [{LINE}], [{LINE}]]", "item 1"),
        (f'{LINE}\n{{"Question": "甲？", "Answer": "乙。", "Answer": "丙。"}}\n{LINE}', "line 2"),
    ],
)
def test_one_broken_record_costs_no_other(tmp_path, text, places):
    """Whatever the shape of the file."""
    (tmp_path / "records").write_text(text, encoding="utf-8")
    found = list(read_records(tmp_path / "records"))
    assert len(found) == 3 and [place for place, record in found if record is None] == [places]


@pytest.mark.parametrize(
    "content, message",
    [
        (pretty([RECORD, RECORD])[:-30].encode(), "breaks off after item 1"),
        (pretty(RECORD, RECORD)[:-2].encode(), "breaks off after item 1"),
        (LINE.encode("gb18030"), "it may be GB18030 (GBK): save it as UTF-8"),
        (b"\xff\xfe\xfa" * 30, "no UTF-8 text"),
        (f"{LINE}\n".encode("utf-16")[:-1], "no UTF-16"),
    ],
)
def test_a_file_that_cannot_be_read_whole_is_told(tmp_path, content, message):
    """In one line that says what it is and what to do."""
    (tmp_path / "records").write_bytes(content)
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace(")", r"\)")):
        list(read_records(tmp_path / "records"))


@pytest.mark.parametrize(
    "text, prompts",
    [
        ("张飞？\r\n\r\n关羽\u2028？\n", ["张飞？", "关羽\u2028？"]),
        ('"张飞？"\n"关羽？"\n', ["张飞？", "关羽？"]),
        ("“义”怎么写？\n{且说}\n", ["“义”怎么写？", "{且说}"]),
        ('["张飞？", "关羽？"]', ["张飞？", "关羽？"]),
    ],
)
def test_prompts_are_lines_or_texts(tmp_path, text, prompts):
    """A line as it is, a JSON text without its quotation marks; only a line's end ends a line."""
    (tmp_path / "prompts").write_bytes(text.encode())
    assert [turns[0]["content"] for turns in read_prompts(tmp_path / "prompts")] == prompts


@pytest.mark.parametrize("line", ['{"question":"张飞？",}', "{'question': '张飞？'}"])
def test_broken_records_are_no_prompts(tmp_path, line):
    """A comma too many, Python's way of writing: told in one line, and never asked as they are."""
    (tmp_path / "prompts").write_text(f"{line}\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match="2 lines that are no JSON"):
        read_prompts(tmp_path / "prompts")
