"""Text in, text out: what the command line, the page and the evaluation share between tokenizer and model."""

from functools import partial

from errors import require

CHAT_TOKENS = 200  # an answer without an end by then is cut off


def prompt_ids(tokenizer, prompt, config):
    """The ids to go on from: of a text as it is, or of a conversation up to 答：.

    prompt: a text (for a chat model a question) or a list of {"role", "content"}. config: the out_dir's config.json.
    Raises UserError for an empty prompt and for a conversation that leaves no room in the block.
    """
    block_size = config["model"]["block_size"]
    if not config["chat"]:
        require(isinstance(prompt, str) and prompt, "nothing to go on from", "give some text as --start=TEXT")
        return tokenizer.encode(prompt)
    messages = [{"role": "user", "content": prompt.strip()}] if isinstance(prompt, str) else prompt
    require(messages and messages[-1]["content"].strip(), "the question is empty", "ask something, as --start=QUESTION")
    ids = tokenizer.encode_prompt(messages)
    require(
        len(ids) < block_size,
        f"the question is {len(ids)} tokens long, the model reads {block_size - 1}",
        "ask a shorter one",
    )
    return ids


def stream(model, tokenizer, prompts, max_new_tokens, **sampling):
    """Generate for all prompts (lists of ids) at once; yields at each step the new text of each, whole characters only.

    sampling: what MiniGLM.generate takes. A prompt that has ended yields None.
    """
    decoders = [tokenizer.decoder() for _ in prompts]
    for step in model.generate(prompts, max_new_tokens, end_id=tokenizer.end_id, **sampling):
        yield [None if token is None else decoder.decode([token]) for token, decoder in zip(step, decoders)]


def complete(model, tokenizer, prompts, max_new_tokens, num_beams=1, length_penalty=1.0, **sampling):
    """[(text, tokens, ended)] for all prompts (lists of ids): what was generated, how much, and whether it came to its end.

    num_beams above 1 searches for the likeliest text instead of drawing one; of sampling it heeds the penalties.
    """
    if num_beams > 1:
        penalties = {
            name: sampling[name] for name in ("repetition_penalty", "no_repeat_ngram_size") if name in sampling
        }
        search = partial(model.beam_search, end_id=tokenizer.end_id, length_penalty=length_penalty, **penalties)
        generated = [search(prompt, max_new_tokens, num_beams)[0][0] for prompt in prompts]
    else:
        generated = [[] for _ in prompts]
        for step in model.generate(prompts, max_new_tokens, end_id=tokenizer.end_id, **sampling):
            for ids, token in zip(generated, step):
                if token is not None:
                    ids.append(token)
    return [(tokenizer.decode(ids), len(ids), ids[-1:] == [tokenizer.end_id]) for ids in generated]
