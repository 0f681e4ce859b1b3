"""OpenAI's protocol on the page's port, for any client of it: models, chat completions and completions.

    curl http://127.0.0.1:7860/v1/chat/completions -d '{"model": "out/demo-chat", "messages": [
        {"role": "user", "content": "张飞字什么？"}]}'

What is asked is computed in one batch with what the page's visitors ask, all choices of a request at once, and a
client that goes away leaves it.
"""

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from miniglm.chat import CHAT_TOKENS, Blank, Tool, TooLong, answer_with, prompt_ids, sources
from miniglm.conversation import Messages
from miniglm.decoding import Sampling, generate
from miniglm.errors import UserError
from miniglm.origin import Loaded
from miniglm.page.models import Models
from miniglm.page.visitors import together

LARGEST_BODY = 1 << 20  # bytes
MOST_STOPS, MOST_CHOICES = 4, 16
UPDATES = 200  # chunks of streams in a second, all clients' together


class Refused(Exception):
    """What is not answered: an error of the protocol."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.content = status, {"message": message, "param": param, "code": code}
        self.content["type"] = "invalid_request_error" if status < 500 else "server_error"

    @property
    def response(self) -> JSONResponse:
        """The error as its client reads it."""
        return JSONResponse({"error": self.content}, self.status)


def text_of(content):
    """A message's content, which may come in parts, as one text."""
    if not isinstance(content, list):
        return content
    if not all(isinstance(part, dict) and part.get("type") == "text" and "text" in part for part in content):
        raise ValueError("only parts of text can be read")
    return "".join(map(str, (part["text"] for part in content)))


def no_demand(choice):
    """What may be said of the tools that a request brings: no model here has learnt to call them, it just answers."""
    if choice not in (None, "none", "auto"):
        raise ValueError("these models call no tools that a request brings; leave it away")
    return choice


class Message(BaseModel):
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, BeforeValidator(text_of)]


class StreamOptions(BaseModel):
    """What else a stream tells."""

    include_usage: bool = False


class Asked(BaseModel):
    """What both kinds of requests have; names and meanings are the protocol's. What is not known is not heeded."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    model: str
    max_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stop: str | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def sampling(self, number: int) -> Sampling:
        """How choice `number` is drawn: by a seed of its own."""
        seed = None if self.seed is None else (self.seed + number) % (1 << 63)
        return Sampling(1.0 if self.temperature is None else self.temperature, top_p=self.top_p or 1.0, seed=seed)

    @property
    def stops(self) -> list[str]:
        """The texts that end an answer, themselves left out."""
        return [self.stop] if isinstance(self.stop, str) and self.stop else list(self.stop or [])

    @property
    def longest(self) -> int:
        """How many tokens are said at most."""
        return self.max_tokens or CHAT_TOKENS

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens are told of each token; None for no probabilities."""
        raise NotImplementedError


class ChatAsked(Asked):
    """A request for what a model says to a conversation."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[dict] | None = None
    tool_choice: Annotated[Any, BeforeValidator(no_demand)] = None

    @property
    def longest(self) -> int:
        """See Asked."""
        return self.max_completion_tokens or super().longest

    @property
    def likeliest(self) -> int | None:
        """See Asked."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TextAsked(Asked):
    """A request for how a model goes on from a text."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MOST_CHOICES)]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @property
    def likeliest(self) -> int | None:
        """See Asked."""
        return self.logprobs


class Piece(NamedTuple):
    """A token of an answer, or what a tool has found."""

    text: str  # whole characters that it completes
    tokens: int = 1
    ended: bool = False  # whether the answer has come to its end
    told: dict | None = None  # its probability, as told has it
    places: Sequence = ()  # in a book


@dataclass
class Said:
    """A choice as far as it has been said."""

    text: str = ""
    tokens: int = 0
    finish_reason: str | None = None
    told: list[dict] = field(default_factory=list)
    places: Sequence = ()


class Work(NamedTuple):
    """What a request comes to."""

    kind: str  # chat.completion or text_completion
    prompt_tokens: int
    count: int  # of choices
    pieces: Callable[[int], Iterator[Piece | None]]  # what is said, of a choice's number
    choice: Callable[[int, str, Said, bool], dict]  # in the protocol's form, of (number, text, all so far, is it whole)


def told(loaded: Loaded, token: int, logits, likeliest: int) -> dict:
    """A token, its log-probability (at temperature 1), its bytes, and as much of the likeliest ones."""
    log_probs = logits.log_softmax(-1)

    def one(each: int) -> dict:
        shown = loaded.tokenizer.show(each)
        return {"token": shown, "logprob": log_probs[each].item(), "bytes": [*loaded.tokenizer.token_bytes(each)]}

    best = log_probs.topk(likeliest).indices.tolist() if likeliest else []
    return one(token) | {"top_logprobs": [one(each) for each in best]}


def going_on(loaded: Loaded, ids: list[int], asked: Asked, number: int) -> Iterator[Piece | None]:
    """What a model says behind some ids, as choice `number`; None where it waits for its batch."""
    decoder, end_ids = loaded.tokenizer.decoder(), loaded.tokenizer.end_ids
    sampling = asked.sampling(number)
    for (token,), (logits,) in generate(loaded.model, [ids], asked.longest, sampling, end_ids, batch=loaded.batch):
        if token is None or logits is None:
            yield None
            continue
        ended = token in end_ids
        of_token = None if asked.likeliest is None or ended else told(loaded, token, logits, asked.likeliest)
        yield Piece("" if ended else decoder.decode([token]), 1, ended, of_token)


def looking_up(tool: Tool, loaded: Loaded, messages: Messages, asked: Asked, number: int) -> Iterator[Piece | None]:
    """What a model says to a conversation, as choice `number`, looking things up as it likes; None where it waits."""
    for step in answer_with(tool, loaded, [messages], asked.longest, asked.sampling(number)):
        if not step:
            yield None
        for _, role, text, ids, places in step:
            ended = role == "assistant" and (not ids or ids[-1] in loaded.tokenizer.end_ids)
            yield Piece(text if role == "assistant" else "", len(ids), ended, None, places)


def before_stop(text: str, stops: Sequence[str]) -> tuple[str, str, bool]:
    """(what may be told of a text, what may yet become a stop, whether one stands in it)."""
    found = [text.index(stop) for stop in stops if stop in text]
    if found:
        return text[: min(found)], "", True
    held = max((size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)
    return text[: len(text) - held], text[len(text) - held :], False


class Protocol:
    """The routes of the protocol."""

    def __init__(self, models: Models, tool_of: Callable[[Loaded], Tool | None], auth: str):
        """tool_of: where a model may look things up. auth: NAME:PASSWORD or "", see sample_gradio.py."""
        self.models, self.tool_of, self.auth = models, tool_of, auth
        self.routes = [
            Route("/v1/models", self.answering(self.list_models)),
            Route("/v1/chat/completions", self.answering(self.chat), methods=["POST"]),
            Route("/v1/completions", self.answering(self.completion), methods=["POST"]),
            Route("/v1/{path:path}", self.answering(self.nothing), methods=["GET", "POST", "PUT", "DELETE", "PATCH"]),
        ]

    def answering(self, function: Callable) -> Callable:
        """A route that checks the key, and answers what goes wrong in the protocol's own form."""

        async def answer(request: Request) -> Response:
            try:
                self.check_key(request)
                return await function(request)
            except Refused as refused:
                return refused.response
            except TooLong as error:
                return Refused(400, str(error), "messages", "context_length_exceeded").response
            except Blank as error:
                return Refused(400, str(error), "messages").response
            except UserError as error:
                return Refused(500, str(error)).response
            except ClientDisconnect:
                return Response(status_code=499)  # nobody reads it

        return answer

    def check_key(self, request: Request):
        """Raise Refused where the page has a password and the request's key is another."""
        if not self.auth:
            return
        key = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        known = self.auth, self.auth.partition(":")[2]
        if not any(hmac.compare_digest(key, each.encode()) for each in known):
            raise Refused(401, "a wrong API key; give the page's password", code="invalid_api_key")

    async def list_models(self, request: Request) -> Response:
        """GET /v1/models."""
        found = [{"id": name, "object": "model", "created": 0, "owned_by": "miniglm"} for name in self.models.names]
        return JSONResponse({"object": "list", "data": found})

    async def nothing(self, request: Request) -> Response:
        """What the protocol has and this server has not."""
        raise Refused(404, f"there is no {request.url.path}; ask /v1/models, /v1/chat/completions or /v1/completions")

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        asked, loaded = await self.read(request, ChatAsked)
        if not loaded.chat:
            raise Refused(400, f"{asked.model} has not learnt to talk; ask /v1/completions", "model")
        messages = [message.model_dump() for message in asked.messages]
        if messages[-1]["role"] != "user":
            raise Refused(400, "the last message is no question; let it be the user's", "messages")
        ids = await asyncio.to_thread(prompt_ids, loaded, messages)
        tool = self.tool_of(loaded) if asked.likeliest is None else None  # of a call no probabilities are told
        in_book = tool is not None and tool is loaded.book

        def pieces(number: int) -> Iterator[Piece | None]:
            if tool:
                return looking_up(tool, loaded, messages, asked, number)
            return going_on(loaded, ids, asked, number)

        def choice(number: int, text: str, said: Said, whole: bool) -> dict:
            message: dict[str, Any] = {"role": "assistant", "content": text}
            if said.finish_reason and in_book and loaded.book:
                places = sources(loaded.book, messages[-1]["content"], said.text, said.places)
                message["sources"] = [{"where": each.where, "text": each.text} for each in places]
            logprobs = None if asked.likeliest is None else {"content": said.told}
            name = "message" if whole else "delta"
            return {"index": number, name: message, "logprobs": logprobs, "finish_reason": said.finish_reason}

        return await self.answer(request, asked, Work("chat.completion", len(ids), asked.n or 1, pieces, choice))

    async def completion(self, request: Request) -> Response:
        """POST /v1/completions."""
        asked, loaded = await self.read(request, TextAsked)
        most, prompts = loaded.model.config.block_size - 1, []
        for prompt in [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt:
            ids = [*loaded.tokenizer.start_ids, *await asyncio.to_thread(loaded.tokenizer.encode, prompt)]
            if not 0 < len(ids) <= most:
                code = "context_length_exceeded" if ids else None
                raise Refused(400, f"a prompt of 1 to {most} tokens is read, not of {len(ids)}", "prompt", code)
            prompts.append(ids)
        count = asked.n or 1

        def pieces(number: int) -> Iterator[Piece | None]:
            return going_on(loaded, prompts[number // count], asked, number)

        def choice(number: int, text: str, said: Said, whole: bool) -> dict:
            logprobs = None
            if asked.likeliest is not None:
                tops = [each["top_logprobs"] for each in said.told]
                logprobs = {
                    "tokens": [each["token"] for each in said.told],
                    "token_logprobs": [each["logprob"] for each in said.told],
                    "top_logprobs": [{each["token"]: each["logprob"] for each in top} for top in tops],
                }
            return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": said.finish_reason}

        work = Work("text_completion", sum(map(len, prompts)), count * len(prompts), pieces, choice)
        return await self.answer(request, asked, work)

    async def read(self, request: Request, kind: type[Asked]) -> tuple[Any, Loaded]:
        """(what is asked, its model). Raises Refused."""
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST_BODY:
                raise Refused(413, f"a request has at most {LARGEST_BODY:,} bytes; send fewer messages")
        try:
            asked = kind.model_validate(json.loads(body))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            param = ".".join(str(part) for part in first["loc"])
            raise Refused(400, f"{param}: {first['msg']}", param) from error
        except (ValueError, RecursionError) as error:
            raise Refused(400, "the body is no JSON; send an object") from error
        if asked.model not in self.models.names:
            what = f"there is no model {asked.model[:100]}; choose one of {', '.join(self.models.names)}"
            raise Refused(404, what, "model", "model_not_found")
        return asked, await self.models.open(asked.model)

    async def answer(self, request: Request, asked: Asked, work: Work) -> Response:
        """The whole response, or the stream of its chunks."""
        is_chat = work.kind == "chat.completion"
        name = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        head = {"id": name, "created": int(time.time()), "model": asked.model}
        choices_said = [Said() for _ in range(work.count)]
        saying = [self.said(work.pieces(number), asked, said) for number, said in enumerate(choices_said)]
        growing = together(saying, MOST_CHOICES)

        def usage() -> dict:
            tokens = sum(said.tokens for said in choices_said)
            total = work.prompt_tokens + tokens
            return {"prompt_tokens": work.prompt_tokens, "completion_tokens": tokens, "total_tokens": total}

        if not asked.stream:
            async with aclosing(growing) as telling:
                async for _ in telling:
                    if await request.is_disconnected():
                        raise ClientDisconnect
            choices = [work.choice(number, said.text, said, True) for number, said in enumerate(choices_said)]
            return JSONResponse({"object": work.kind, **head, "choices": choices, "usage": usage()})

        async def chunks() -> AsyncGenerator[str]:
            chunk = {"object": f"{work.kind}.chunk" if is_chat else work.kind, **head}
            try:
                async with aclosing(growing) as telling:
                    async for number, more in telling:
                        said = choices_said[number]
                        yield event(chunk | {"choices": [work.choice(number, more, said, False)]})
                        said.told = []
            except UserError as error:
                yield event({"error": Refused(500, str(error)).content})
                return
            if asked.stream_options and asked.stream_options.include_usage:
                yield event(chunk | {"choices": [], "usage": usage()})
            yield "data: [DONE]\n\n"

        return StreamingResponse(chunks(), media_type="text/event-stream")

    async def said(self, pieces: Iterator[Piece | None], asked: Asked, said: Said) -> AsyncGenerator[str]:
        """What a choice says more, again and again; `said` grows with it, and at the last tells why it has ended."""
        more, held, stopped, ended = "", "", False, False
        telling = self.models.visitors.gathered(pieces, lambda piece: bool(piece.text), UPDATES)
        async with aclosing(telling) as lists:
            async for items in lists:
                for piece in items:
                    said.tokens += piece.tokens
                    said.told += [piece.told] if piece.told else []
                    said.places = piece.places or said.places
                    held, ended = held + piece.text, piece.ended
                    if any(stop in held for stop in asked.stops):
                        break
                more, held, stopped = before_stop(held, asked.stops)
                said.text += more
                if stopped:
                    break
                if more:
                    yield more
        said.finish_reason = "stop" if stopped or ended else "length"
        said.text += held
        yield more if stopped else held


def event(content: dict) -> str:
    """An event of a stream."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
