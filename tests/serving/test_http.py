"""The server over sockets: each answer is the one that is got alone, or a refusal with a reason."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.says import error_line, names, refusal

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

import anyio
from prometheus_client.parser import text_string_to_metric_families

from minilora.cli.app import main
from minilora.hub import save_pretrained
from minilora.serving.http.app import Settings, make_app
from minilora.serving.http.asked import Limits
from minilora.serving.http.run import hosts_for, listen, require_key
from minilora.serving.http.streams import EventStream
from minilora.serving.router import Choice
from minilora.serving.service import ROUTER, Service
from minilora.text.answers import prompt_ids
from tests.serving.served import (
    NAME,
    NAMES,
    NOTES,
    WORDS,
    Client,
    a_model,
    alone,
    an_engine,
    chat_body,
    events_in,
    serving,
    slow,
    text_of,
    until,
)
from tests.serving.test_bank import CONFIGS as OTHER_CONFIGS
from tests.serving.test_bank import an_adapter

LONG = 400


@pytest.fixture(scope="module")
def client():
    with serving(
        route=lambda prompt: Choice("wide" if len(prompt) % 2 else None, {"wide": 0.5})
    ) as it:
        yield it


def said(value) -> str:
    return value["error"]["message"]


# -- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_chat_is_answered_as_it_is_alone(client, name):
    ids, text = alone(NOTES[0], name)
    status, value, _ = client.chat(NOTES[0], name)
    assert (status, text_of(value), value["model"]) == (200, text, name)
    assert value["usage"]["completion_tokens"] == len(ids)
    assert value["choices"][0]["finish_reason"] == ("length" if len(ids) == 24 else "stop")
    pieces = client.events("/v1/chat/completions", chat_body(NOTES[0], name, stream=True))
    deltas = [one["choices"][0]["delta"] for one in pieces]
    assert "".join(delta.get("content", "") for delta in deltas) == text
    assert deltas[0]["role"] == "assistant" and len(deltas) > 3


def test_the_adapters_of_these_tests_differ():
    assert len({alone(NOTES[0], name)[1] for name in NAMES}) == len(NAMES)


def test_a_text_is_continued_and_several_at_once(client):
    body = {"model": "plain", "prompt": ["Pulse 88", "The patient"], "max_tokens": 9, "n": 2}
    sampling = {"temperature": 1.0, "seed": 3}
    _, value, _ = client.ask("/v1/completions", {**body, **sampling})
    texts = [one["text"] for one in value["choices"]]
    assert [one["index"] for one in value["choices"]] == [0, 1, 2, 3] and len(set(texts)) == 4
    again = {**body, **sampling, "n": 1, "seed": 4, "prompt": WORDS.encode("The patient")}
    _, one, _ = client.ask("/v1/completions", again)
    assert one["choices"][0]["text"] == texts[3]  # the same seed and prompt, as token ids
    read = len(WORDS.encode("Pulse 88")) + len(WORDS.encode("The patient"))
    assert value["usage"] == {
        "prompt_tokens": read, "completion_tokens": 36, "total_tokens": read + 36,
    }  # fmt: skip
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    stream = client.events("/v1/completions", {**body, **sampling, **streamed})
    told = {i: "" for i in range(4)}
    for one in stream:
        for choice in one["choices"]:
            told[choice["index"]] += choice["text"]
    assert list(told.values()) == texts
    assert stream[-1]["usage"] == value["usage"] and stream[0]["usage"] is None


def test_an_answer_ends_before_a_stop_text(client):
    _, text = alone(NOTES[1], "plain")
    stop = text[len(text) // 2 :][:3]
    expected = text[: text.index(stop)]
    _, value, _ = client.chat(NOTES[1], "plain", stop=["never said", stop])
    assert text_of(value) == expected != text
    assert value["choices"][0]["finish_reason"] == "stop"
    pieces = client.events("/v1/chat/completions",
                           chat_body(NOTES[1], "plain", stop=stop, stream=True))  # fmt: skip
    deltas = [one["choices"][0]["delta"].get("content", "") for one in pieces]
    assert "".join(deltas) == expected
    until(lambda: client.engine.active == 0)


def test_the_router_chooses_and_says_whom(client):
    odd = {note: len(WORDS.encode(WORDS.apply_chat_template([{"role": "user", "content": note}])))
           % 2 for note in NOTES}  # fmt: skip
    assert set(odd.values()) == {0, 1}
    for note in NOTES:
        name = "wide" if odd[note] else NAME
        _, value, _ = client.chat(note, ROUTER)
        assert (value["model"], text_of(value)) == (name, alone(note, name)[1])
        assert value["router"] == {
            "name": "wide" if odd[note] else None,
            "distances": {"wide": 0.5},
        }
        pieces = client.events("/v1/chat/completions", chat_body(note, ROUTER, stream=True))
        assert {one["model"] for one in pieces} == {name} and "router" in pieces[0]


def test_a_comparison_has_everybodys_answer(client):
    models = [*NAMES, ROUTER]
    body = {**chat_body(NOTES[0], "", stop=None), "models": models}
    del body["model"]
    told = client.events("/v1/compare", body)
    texts, tokens = [""] * len(models), [0] * len(models)
    for one in told:
        texts[one["index"]] += one["text"]
        tokens[one["index"]] = one["tokens"]
    expected = [alone(NOTES[0], name) for name in NAMES]
    assert texts[:-1] == [text for _, text in expected]
    assert tokens[:-1] == [len(ids) for ids, _ in expected]
    (router,) = [one for one in told if "router" in one]
    assert texts[-1] == texts[models.index(router["model"])]


def test_every_answer_under_load_is_the_one_alone(client):
    asked = [(note, name) for note in NOTES for name in NAMES] * 3
    expected = {one: alone(*one)[1] for one in set(asked)}

    def ask(i: int) -> str:
        note, name = asked[i]
        if i % 3:
            return text_of(client.chat(note, name)[1])
        pieces = client.events("/v1/chat/completions", chat_body(note, name, stream=True))
        return "".join(p["choices"][0]["delta"].get("content", "") for p in pieces)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(len(asked))))
    assert answers == [expected[one] for one in asked]


def test_a_stop_text_frees_its_row():
    engine = an_engine()
    steps = slow(engine)
    with serving(engine) as client:
        _, text = alone(NOTES[1], "plain")
        client.chat(NOTES[1], "plain", LONG, stop=text[4:6])
        until(lambda: engine.active == 0)
        assert 2 < len(steps) < LONG / 2


def test_a_seed_says_what_is_sampled(client):
    settings = {"temperature": 1.3, "top_p": 0.9}
    one, same, other = (
        text_of(client.chat(NOTES[2], "wide", seed=seed, **settings)[1]) for seed in (5, 5, -6)
    )
    assert one == same != other


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{", 400, None),
        (b"\xff\xfe", 400, None),
        (b"[]", 400, None),
        (b"[" * 100_000, 400, None),
        (b'{"model": NaN}', 400, None),
        ({"messages": []}, 400, "messages"),
        ({"model": 7}, 400, "model"),
        ({"model": "nobody"}, 404, "model"),
        ({"model": "\ud800"}, 404, "model"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, 400, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400,
         "messages[0].content"),
        ({"messages": ["hello"]}, 400, "messages[0]"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, 400,
         "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": "mg " * 600}]}, 400, "prompt"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 100_000}, 400, "max_tokens"),
        ({"max_completion_tokens": 1.5}, 400, "max_tokens"),
        ({"temperature": 3}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"seed": 2**64}, 400, "seed"),
        ({"stop": [""]}, 400, "stop"),
        ({"stop": ["a"] * 5}, 400, "stop"),
        ({"stream": "yes"}, 400, "stream"),
        ({"stream_options": []}, 400, "stream_options"),
        ({"n": 0}, 400, "n"),
        ({"n": 17}, 400, "n"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty"),
        ({"temprature": 0}, 400, "temprature"),
    ],
)  # fmt: skip
def test_what_can_not_be_answered_is_refused_by_field(client, body, status, field):
    whole = {**chat_body(NOTES[0], "plain"), **body} if isinstance(body, dict) else body
    got, value, _ = client.ask("/v1/chat/completions", whole)
    assert (got, value["error"]["param"]) == (status, field), value
    assert said(value) and value["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "prompt", [None, "", [], {}, 3, [[]], ["a", 3], [True], [99999], [-1], ["x"] * 17]
)
def test_prompts_that_are_none_are_refused(client, prompt):
    status, value, _ = client.ask("/v1/completions", {"model": "plain", "prompt": prompt})
    assert (status, value["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize("models", [None, [], "plain", [3], ["plain"] * 17])
def test_models_to_compare_that_are_none_are_refused(client, models):
    body = {"models": models, "messages": chat_body("x", "")["messages"]}
    status, value, _ = client.ask("/v1/compare", body)
    assert (status, value["error"]["param"]) == (400, "models")


def test_neutral_and_bookkeeping_fields_change_nothing(client):
    more = {"logprobs": False, "frequency_penalty": 0, "user": "me", "stop": None, "tools": []}
    assert text_of(client.chat(NOTES[0], "plain", **more)[1]) == alone(NOTES[0], "plain")[1]


def test_paths_methods_and_kinds_that_are_none(client):
    assert client.ask("/v2/models")[0] == 404
    assert client.ask("/v1/chat/completions")[0] == 405
    assert client.ask("/v1/chat/completions", {}, **{"Content-Type": "text/plain"})[0] == 415
    status, value, _ = client.ask("/v1/models/nobody")
    assert status == 404 and names(said(value), "nobody", NAME)


def test_another_sites_page_is_refused(client):
    assert client.ask("/v1/models", Host="evil.example")[0] == 421
    assert client.ask("/v1/models", Host="[::")[0] == 421
    assert client.ask("/v1/models", Host="localhost:80")[0] == 200
    assert client.ask("/v1/models", Origin="http://evil.example")[0] == 403
    assert client.ask("/v1/models", Origin="null")[0] == 403
    own = f"127.0.0.1:{client.port}"
    assert client.ask("/v1/models", Host=own, Origin=f"http://{own}")[0] == 200


def test_bodies_are_bounded_in_size_and_time():
    with serving(limits=Limits(body=2000, seconds=0.5)) as client:
        status, value, _ = client.chat("x" * 3000, "plain")
        assert status == 413 and names(said(value), 2000)
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        head += b"Content-Type: application/json\r\n"
        for rest in (b"Content-Length: 900\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n"):
            with client.connect() as own:  # a body that does not come
                own.sendall(head + rest)
                assert own.recv(65536).startswith(b"HTTP/1.1 408")
        with client.connect() as own:  # one whose length nobody has said
            own.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"3e8\r\n" + b"x" * 1000
                        + b"\r\n3e8\r\n" + b"x" * 1000 + b"\r\n3e8\r\n" + b"x" * 1000)  # fmt: skip
            assert own.recv(65536).startswith(b"HTTP/1.1 413")
        assert client.chat("x", "plain", 4)[0] == 200


def test_limits_of_tokens():
    with serving(limits=Limits(prompt=20, new=10, usual=5)) as client:
        assert client.chat("mg " * 30, "plain", 3)[1]["error"]["code"] == "context_length_exceeded"
        assert client.chat("x", "plain", 11)[1]["error"]["param"] == "max_tokens"
        _, value, _ = client.chat("x", "plain", None)
        assert value["usage"]["completion_tokens"] <= 5


def test_a_full_queue_says_when_to_come_again():
    engine = an_engine(most_rows=2)
    slow(engine, 0.02)
    with serving(engine, most_waiting=1) as client:
        begun = [client.begin(chat_body(NOTES[0], "wide", LONG, stream=True)) for _ in range(3)]
        until(lambda: client.service.open == 3)
        status, value, headers = client.chat(NOTES[0], "plain")
        assert (status, value["error"]["type"]) == (429, "rate_limit_error")
        assert 1 <= int(headers["retry-after"]) <= 60
        for own in begun:
            own.close()
        until(lambda: client.service.open == 0)
        assert client.chat(NOTES[0], "plain")[0] == 200


def test_an_answer_that_takes_too_long_ends():
    engine = an_engine()
    slow(engine, 0.02)
    with serving(engine, limits=Limits(seconds=0.4)) as client:
        status, value, _ = client.chat(NOTES[0], "wide", LONG)
        assert status == 504 and names(said(value), 0.4)
        pieces = client.events(
            "/v1/chat/completions", chat_body(NOTES[0], "wide", LONG, stream=True)
        )
        assert "error" in pieces[-1] and len(pieces) > 3
        until(lambda: engine.active == 0)


# -- keys ---------------------------------------------------------------------------------------


def test_a_key_is_demanded():
    with serving(key="open-sesame") as client:
        for path in ("/v1/models", "/metrics", "/nowhere"):
            status, value, headers = client.ask(path)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert value["error"]["type"] == "authentication_error"
        for wrong in ("Bearer open-sesam", "Bearer", "Basic open-sesame", "Bearer öpen"):
            assert client.ask("/v1/models", Authorization=wrong)[0] == 401
        assert client.ask("/v1/models", Authorization="Bearer open-sesame")[0] == 200
        assert client.ask("/health")[0] == 200 and client.ask("/")[0] == 200
        # Behind a proxy another name and another origin are right, and a page elsewhere has no key.
        proxied = {"Host": "ward.example", "Origin": "https://ward.example"}
        assert client.ask("/v1/models", Authorization="Bearer open-sesame", **proxied)[0] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org", ""])
def test_beyond_this_machine_a_key_is_a_must(host):
    with refusal(ValueError, "--api-key"):
        require_key(host, None)
    require_key(host, "s3cret")
    assert hosts_for(host) is None


def test_on_this_machine_it_is_not():
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        require_key(host, None)
        assert {"localhost", host} <= hosts_for(host)


@pytest.mark.parametrize("key", ["", " ", "a b", "schlüssel", "a\nb"])
def test_a_key_that_no_header_can_bear_is_refused(key):
    with refusal(ValueError):
        require_key("127.0.0.1", key)


@pytest.mark.parametrize("base", ["plain", "wide"])
def test_a_base_and_an_adapter_of_one_name_are_refused(base):
    with refusal(ValueError, base):
        make_app(Service(an_engine()), WORDS, Settings(base))


@pytest.mark.parametrize(
    "limits", [{"body": 0}, {"new": 0}, {"prompt": 0}, {"seconds": 0.0}, {"seconds": math.nan}]
)
def test_limits_that_leave_no_room_are_refused(limits):
    with refusal(ValueError, *limits):
        Limits(**limits)


def test_a_folder_to_load_from_that_is_none_is_refused(tmp_path):
    with refusal(ValueError, tmp_path / "nowhere"):
        Settings(NAME, load_from=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--host", "0.0.0.0"], "--api-key"),
        (["--port", "70000"], 70000),
        (["--rows", "0"], "rows"),
        (["--context", "99999"], 99999),
        (["--grace", "nan"], "nan"),
        (["--waiting", "-1"], -1),
        (["--load-from", "nowhere"], "nowhere"),
    ],
)
def test_the_command_refuses_before_it_serves(saved, capsys, options, named):
    assert main(["serve", "--base", str(saved), "--port", "0", *options]) == 1
    assert names(error_line(capsys), named)


def test_a_port_that_is_taken_is_refused():
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with refusal(OSError, "127.0.0.1", port):
            listen("127.0.0.1", port)


# -- clients that go away -----------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_row_and_harms_nobody(stream):
    engine = an_engine()
    steps = slow(engine)
    with serving(engine) as client:
        gone = client.begin(chat_body(NOTES[1], "wide", LONG, stream=stream))
        until(lambda: engine.active == 1)
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(client.chat, NOTES[0], "plain", 40)
            until(lambda: engine.active == 2)
            gone.close()
            until(lambda: engine.active <= 1)
            assert len(steps) < LONG / 2
            assert text_of(other.result()[1]) == alone(NOTES[0], "plain", 40)[1]
        assert client.service.open == 0
        counted = client.ask("/metrics")[1]
        assert 'minilora_answers_total{ended="cancelled",model="wide"} 1.0' in counted


KILLED = """
import socket, sys, time
own = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
own.sendall(sys.stdin.buffer.read())
own.recv(4096)
print("reading", flush=True)
time.sleep(60)
"""


@pytest.mark.processes
def test_a_client_that_is_killed_frees_its_row():
    engine = an_engine()
    steps = slow(engine)
    with serving(engine) as client:
        data = json.dumps(chat_body(NOTES[1], "wide", LONG, stream=True)).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}"
        )
        command = [sys.executable, "-c", KILLED, str(client.port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdin.write(f"{head}\r\nContent-Type: application/json\r\n\r\n".encode() + data)
            process.stdin.close()
            assert process.stdout.readline() == b"reading\n"
            until(lambda: engine.active == 1)
            process.kill()
        until(lambda: engine.active == 0)
        assert len(steps) < LONG / 2
        assert client.chat(NOTES[0], "plain")[0] == 200


def test_a_reader_who_does_not_read_holds_up_nobody():
    engine = an_engine(longest=500)
    with serving(engine, limits=Limits(seconds=3)) as client:
        body = chat_body(NOTES[1], "wide", 460, stream=True, n=4)
        stuck = [client.begin(body) for _ in range(3)]
        assert text_of(client.chat(NOTES[0], "plain")[1]) == alone(NOTES[0], "plain")[1]
        until(lambda: engine.active == 0 and client.service.open == 0)
        for own in stuck:
            own.close()


def test_a_stream_whose_client_takes_nothing_is_given_up():
    closed = []

    async def events():
        try:
            while True:
                yield b"data: {}\n\n"
        finally:
            closed.append(True)

    async def never():
        await anyio.sleep_forever()

    sent = []

    async def send(message):
        sent.append(message)
        if len(sent) > 3:
            await anyio.sleep_forever()

    ended = []
    stream = EventStream(events(), 0.1, lambda: ended.append(True))
    anyio.run(stream, {"type": "http"}, never, send)
    assert closed == ended == [True] and [one["type"] for one in sent[:2]] == [
        "http.response.start", "http.response.body",
    ]  # fmt: skip


def test_a_client_that_is_gone_before_its_stream_begins_is_noticed():
    ended, begun = [], []

    async def events():
        begun.append(True)
        yield b""

    async def gone():
        return {"type": "http.disconnect"}

    async def send(_):
        await anyio.sleep_forever()

    anyio.run(EventStream(events(), 60, lambda: ended.append(True)), {"type": "http"}, gone, send)
    assert (begun, ended) == ([], [True])


def test_cut_connections_at_any_byte_leave_the_server_whole(client):
    whole = json.dumps(chat_body(NOTES[0], "plain", stream=True)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(whole)
    for cut in np.linspace(0, len(head + whole), 12, dtype=int):
        own = client.connect()
        own.sendall((head + whole)[:cut])
        own.close()
    own = client.connect()
    own.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
    assert own.recv(1000).startswith(b"HTTP/1.1 400")
    until(lambda: client.engine.active == 0 and client.service.open == 0)
    assert text_of(client.chat(NOTES[0], "plain")[1]) == alone(NOTES[0], "plain")[1]


def test_a_storm_of_good_and_bad_clients_leaves_every_whole_answer_right(folders):
    expected = {(note, name): alone(note, name)[1] for note in NOTES for name in NAMES}
    engine = an_engine(most_rows=6)

    with serving(engine, most_waiting=500, load_from=folders) as client:

        def behave(seed: int) -> str:
            rng = np.random.default_rng(seed)
            note, name = NOTES[rng.integers(len(NOTES))], NAMES[rng.integers(len(NAMES))]
            kind = seed % 6
            if kind == 0:
                return (
                    "whole" if text_of(client.chat(note, name)[1]) == expected[note, name] else ""
                )
            if kind == 1:
                told = client.events("/v1/chat/completions", chat_body(note, name, stream=True))
                text = "".join(p["choices"][0]["delta"].get("content", "") for p in told)
                return "streamed" if text == expected[note, name] else ""
            if kind == 2:
                with client.begin(chat_body(note, name, LONG, stream=True)) as own:
                    own.recv(int(rng.integers(1, 2000)))
                return "cut"
            if kind == 3:
                client.begin(chat_body(note, name, LONG)).close()
                return "cut"
            if kind == 4:
                return "refused" if client.ask("/v1/completions", b"{")[0] == 400 else ""
            own = f"own-{seed}"
            assert load(client, own, "good")[0] == 200
            status, _, _ = client.chat(note, own)
            gone = client.ask("/v1/unload_lora_adapter", {"lora_name": own})[0]
            return "came and went" if status == gone == 200 else ""

        with ThreadPoolExecutor(12) as pool:
            told = list(pool.map(behave, range(120)))
        assert all(told), [i for i, one in enumerate(told) if not one]
        until(lambda: client.service.open == 0 and engine.active == engine.waiting == 0)
        assert client.service.names == ("activated", "plain", "wide") == engine.bank.names
        assert text_of(client.chat(NOTES[0], "plain")[1]) == expected[NOTES[0], "plain"]


# -- adapters -----------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    """A good adapter, one of another base, and one that is cut off."""
    model = a_model()
    an_adapter(model, OTHER_CONFIGS["rooted"], 9).write(tmp_path / "good")
    an_adapter(a_model(hidden_size=14), OTHER_CONFIGS["plain"], 9).write(tmp_path / "other")
    an_adapter(model, OTHER_CONFIGS["plain"], 9).write(tmp_path / "cut")
    weights = tmp_path / "cut" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    return tmp_path


def load(client, name, path):
    return client.ask("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})


def test_adapters_come_and_go(folders):
    with serving(load_from=folders) as client:
        assert client.chat(NOTES[0], "good")[0] == 404
        assert load(client, "good", "good")[0] == 200
        first = text_of(client.chat(NOTES[0], "good")[1])
        assert first not in {alone(NOTES[0], name)[1] for name in NAMES}
        ids = [one["id"] for one in client.ask("/v1/models")[1]["data"]]
        assert ids == [NAME, "activated", "good", "plain", "wide"]
        assert load(client, "good", "good")[0] == 400
        assert load(client, ROUTER, "good")[0] == load(client, NAME, "good")[0] == 400
        assert client.ask("/v1/unload_lora_adapter", {"lora_name": "good"})[0] == 200
        assert client.chat(NOTES[0], "good")[0] == 404
        assert client.ask("/v1/unload_lora_adapter", {"lora_name": "good"})[0] == 404
        assert load(client, "again", str(folders / "good"))[0] == 200
        assert text_of(client.chat(NOTES[0], "again")[1]) == first


def test_an_adapter_that_does_not_fit_is_refused_and_the_others_stay(folders):
    with serving(load_from=folders) as client:
        for path in ("other", "cut", "nowhere", "", 3):
            status, value, _ = load(client, "misfit", path)
            assert status == 400 and value["error"]["param"] == "lora_path", path
        for path in ("..", "/etc", str(folders.parent)):
            assert load(client, "misfit", path)[0] == 403
        assert client.service.names == ("activated", "plain", "wide")
        assert text_of(client.chat(NOTES[0], "wide")[1]) == alone(NOTES[0], "wide")[1]


def test_nobody_changes_adapters_where_that_is_not_allowed(client, folders):
    assert load(client, "good", str(folders / "good"))[0] == 403
    assert client.ask("/v1/unload_lora_adapter", {"lora_name": "plain"})[0] == 403
    assert "plain" in client.service.names


def test_an_adapter_that_is_unloaded_in_use_answers_to_the_end(folders):
    engine = an_engine(most_rows=1)
    slow(engine)
    with serving(engine, load_from=folders) as client, ThreadPoolExecutor(3) as pool:
        begun = [pool.submit(client.chat, note, "wide", 60) for note in NOTES[:2]]  # one waits
        until(lambda: engine.active == 1 and engine.waiting == 1)
        unloaded = pool.submit(client.ask, "/v1/unload_lora_adapter", {"lora_name": "wide"})
        until(lambda: "wide" not in client.service.names)
        assert client.chat(NOTES[0], "wide")[0] == 404
        assert not unloaded.done()
        for note, one in zip(NOTES, begun, strict=False):
            assert text_of(one.result()[1]) == alone(note, "wide", 60)[1]
        assert unloaded.result()[0] == 200 and "wide" not in engine.bank.names
        assert client.chat(NOTES[0], "plain")[0] == 200


# -- what it tells ------------------------------------------------------------------------------


def test_metrics_are_prometheus_and_count(client):
    def counted():
        found = {}
        for family in text_string_to_metric_families(client.ask("/metrics")[1]):
            for one in family.samples:
                found[(one.name, *sorted(one.labels.values()))] = one.value
        return found

    before = counted()
    ids, _ = alone(NOTES[0], "wide", 8)
    client.chat(NOTES[0], "wide", 8)
    client.chat(NOTES[0], "nobody")
    after = counted()
    grown = {name: after[name] - before.get(name, 0) for name in after}
    end = "length" if len(ids) == 8 else "stop"
    assert grown["minilora_answers_total", end, "wide"] == 1
    assert grown["minilora_new_tokens_total", "wide"] == len(ids)
    assert grown["minilora_refused_requests_total", "404"] == 1
    assert grown["minilora_answer_seconds_count",] == grown["minilora_first_token_seconds_count",]
    read = sum(grown["minilora_prompt_positions_total", how] for how in ("read", "known"))
    assert read == grown["minilora_prompt_tokens_total", "wide"]
    assert after["minilora_adapters",] == 3 and after["minilora_open_requests",] == 0
    assert not any("nobody" in name for name in after)


def test_a_note_is_read_once_for_the_base_and_activated_adapters():
    with serving(an_engine(kept_positions=64)) as client:
        note = "The patient takes 20 mg."
        for name in (NAME, "activated"):
            assert text_of(client.chat(note, name)[1]) == alone(note, name)[1]
        read = len(prompt_ids(WORDS, note))
        assert (client.engine.read_positions, client.engine.known_positions) == (
            read + 1, read - 1,
        )  # fmt: skip


def test_a_step_that_fails_is_told_and_the_next_requests_are_answered():
    engine = an_engine()
    drop, fails = engine._drop_ended, [True]

    def sometimes():
        if fails:
            fails.clear()
            raise RuntimeError("the memory is gone")
        drop()

    engine._drop_ended = sometimes
    with serving(engine) as client:
        status, value, _ = client.chat(NOTES[0], "wide", LONG)
        assert engine.active == 0
        assert (status, value["error"]["type"]) == (500, "server_error")
        assert names(said(value), "the memory is gone")
        assert text_of(client.chat(NOTES[0], "wide")[1]) == alone(NOTES[0], "wide")[1]
        assert client.ask("/health")[0] == 200


# -- the end ------------------------------------------------------------------------------------


def test_at_the_end_those_in_flight_finish():
    engine = an_engine()
    slow(engine)
    with serving(engine) as client, ThreadPoolExecutor(2) as pool:
        one = pool.submit(client.chat, NOTES[0], "wide", 60)
        until(lambda: engine.active == 1)
        client.server.handle_exit(signal.SIGINT, None)
        until(lambda: client.service.closing)
        assert text_of(one.result()[1]) == alone(NOTES[0], "wide", 60)[1]


@pytest.mark.parametrize("signals", [1, 2])
def test_or_are_told(signals):
    engine = an_engine()
    slow(engine, 0.05)
    grace = 0.3 if signals == 1 else 60.0
    with serving(engine, grace=grace) as client, ThreadPoolExecutor(2) as pool:
        whole = pool.submit(client.chat, NOTES[0], "wide", LONG)
        body = chat_body(NOTES[0], "wide", LONG, stream=True)
        stream = pool.submit(client.ask, "/v1/chat/completions", body)
        until(lambda: engine.active == 2)
        for _ in range(signals):
            client.server.handle_exit(signal.SIGINT, None)
        status, value, _ = whole.result()
        assert (status, value["error"]["type"]) == (503, "server_error")
        assert "error" in events_in(stream.result()[1])[-1]


@pytest.mark.processes
def test_the_command_serves_until_ctrl_c(tmp_path):
    model = a_model()
    save_pretrained(tmp_path / "base", model, WORDS)
    an_adapter(model, OTHER_CONFIGS["plain"], 9).write(tmp_path / "mine")
    code = "import sys; from minilora.cli.app import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "serve", "--base", str(tmp_path / "base"), "--adapter",
               str(tmp_path / "mine"), "--port", "0"]  # fmt: skip
    environment = {**os.environ, "COLUMNS": "200"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            line = process.stdout.readline()
            assert names(line, "base", "mine")
            port = int(line.split("127.0.0.1:")[1].split("/")[0])
            asked = Client(port, None, type("service", (), {"engine": None}))
            until(lambda: _answers(asked))
            status, value, _ = asked.chat(NOTES[0], "mine", 9)
            assert status == 200 and value["usage"]["completion_tokens"] <= 9
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0


def _answers(client) -> bool:
    try:
        return client.ask("/health")[0] == 200
    except OSError:
        return False


def test_the_engines_thread_ends_with_its_server():
    def engines():
        return {one for one in threading.enumerate() if one.name == "engine"}

    before = engines()
    with serving() as client:
        client.chat(NOTES[0], "plain")
        assert len(engines() - before) == 1
    until(lambda: not engines() - before)
