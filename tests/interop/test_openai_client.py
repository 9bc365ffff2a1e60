"""The `openai` package's client is answered as it expects, streamed and whole, and told errors."""

from __future__ import annotations

import asyncio

import pytest

pytestmark = pytest.mark.interop
openai = pytest.importorskip("openai")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from minilora.serving.router import Choice  # noqa: E402
from minilora.serving.service import ROUTER  # noqa: E402
from tests.serving.served import (  # noqa: E402
    NAME,
    NAMES,
    NOTES,
    WORDS,
    alone,
    an_engine,
    serving,
    slow,
    until,
)

KEY = "sesame"


@pytest.fixture(scope="module")
def server():
    with serving(key=KEY, hosts=None, route=lambda _: Choice("wide", {"wide": 0.5})) as client:
        yield client


def client_of(server, kind=openai.OpenAI, key=KEY):
    return kind(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=key, max_retries=0)


def said(note: str) -> list[dict]:
    return [{"role": "user", "content": note}]


def test_the_models_are_listed(server):
    client = client_of(server)
    listed = client.models.list().data
    assert [one.id for one in listed] == [NAME, *sorted(set(NAMES) - {NAME}), ROUTER]
    assert client.models.retrieve("wide").id == "wide"


@pytest.mark.parametrize("name", NAMES)
def test_a_chat(server, name):
    client, (ids, text) = client_of(server), alone(NOTES[0], name)
    asked = {"model": name, "messages": said(NOTES[0]), "max_tokens": 24}
    whole = client.chat.completions.create(**asked)
    (choice,) = whole.choices
    assert (choice.message.role, choice.message.content) == ("assistant", text)
    assert choice.finish_reason == ("length" if len(ids) == 24 else "stop")
    assert whole.usage.completion_tokens == len(ids) and whole.model == name
    stream = client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    deltas = [one.choices[0].delta for one in chunks if one.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == text
    assert [one.usage for one in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].usage == whole.usage and chunks[-1].choices == []
    assert len({one.id for one in chunks}) == 1


def test_the_streaming_helper_accumulates(server):
    with client_of(server).chat.completions.stream(
        model=ROUTER, messages=said(NOTES[1]), max_tokens=24
    ) as stream:
        for _ in stream:
            pass
        final = stream.current_completion_snapshot
    assert final.choices[0].message.content == alone(NOTES[1], "wide")[1]


def test_a_text(server):
    prompt = WORDS.encode("Pulse 88")
    completions = client_of(server).completions
    asked = {"model": "plain", "max_tokens": 7, "seed": 2, "temperature": 0.8}
    whole = completions.create(prompt=["Pulse 88", "The patient"], n=2, **asked)
    assert [one.index for one in whole.choices] == [0, 1, 2, 3]
    by_ids = completions.create(prompt=prompt, **asked)
    assert by_ids.choices[0].text == whole.choices[0].text
    pieces = ["", "", "", ""]
    for chunk in completions.create(prompt=["Pulse 88", "The patient"], n=2, stream=True, **asked):
        for choice in chunk.choices:
            pieces[choice.index] += choice.text
    assert pieces == [one.text for one in whole.choices]


def test_errors_are_the_clients_own(server):
    client = client_of(server)
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody", messages=said("x"))
    assert caught.value.code == "model_not_found" and caught.value.param == "model"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="plain", messages=said("mg " * 900))
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="plain", messages=said("x"), logprobs=True)
    assert caught.value.param == "logprobs"
    with pytest.raises(openai.AuthenticationError):
        client_of(server, key="wrong").models.list()


def test_a_full_queue_is_a_rate_limit_and_the_client_comes_again():
    engine = an_engine(most_rows=1)
    slow(engine, 0.01)
    with serving(engine, most_waiting=0) as server:
        client = client_of(server)
        stream = client.chat.completions.create(
            model="wide", messages=said(NOTES[0]), max_tokens=300, stream=True
        )
        until(lambda: engine.active == 1)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="plain", messages=said("x"))
        assert int(caught.value.response.headers["retry-after"]) >= 1
        patient = client.with_options(max_retries=5)
        stream.close()  # which frees the row
        answer = patient.chat.completions.create(
            model="plain", messages=said(NOTES[0]), max_tokens=24
        )
        assert answer.choices[0].message.content == alone(NOTES[0], "plain")[1]


def test_an_error_in_a_stream_is_raised():
    engine = an_engine()
    slow(engine, 0.02)
    with serving(engine) as server:
        stream = client_of(server).chat.completions.create(
            model="wide", messages=said(NOTES[0]), max_tokens=300, stream=True
        )
        next(iter(stream))
        server.server.handle_exit(2, None)
        server.server.handle_exit(2, None)
        with pytest.raises(openai.APIError):
            for _ in stream:
                pass


def test_many_at_once_get_what_each_gets_alone(server):
    asked = [(note, name) for note in NOTES for name in NAMES] * 4
    expected = {one: alone(*one)[1] for one in set(asked)}

    async def ask(client, note: str, name: str) -> str:
        whole = await client.chat.completions.create(model=name, messages=said(note), max_tokens=24)
        return whole.choices[0].message.content

    async def ask_all() -> list[str]:
        async with client_of(server, openai.AsyncOpenAI) as client:
            return await asyncio.gather(*(ask(client, *one) for one in asked))

    assert asyncio.run(ask_all()) == [expected[one] for one in asked]
