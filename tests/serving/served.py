"""A server over tiny adapters, in this process and on a port of its own, and a client's sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager
from http.client import HTTPConnection

import numpy as np

from minilora.lora import LoRAConfig
from minilora.nn import generate
from minilora.serving import BASE, AdapterBank, Engine
from minilora.serving.http.app import Settings
from minilora.serving.http.run import hosts_for, listen, make_server
from minilora.serving.service import Service
from minilora.text.answers import prompt_ids, stop_ids
from minilora.text.streaming import answer_text
from tests import tiny
from tests.serving.test_bank import an_adapter

WORDS = tiny.tokenizer()
NAME = "tiny"
ASSISTANT = (WORDS.backend.token_to_id("<|assistant|>"),)
CONFIGS = {
    "plain": LoRAConfig(r=2, lora_alpha=6),
    "wide": LoRAConfig(r=6, lora_alpha=3, target_modules=("q_proj", "o_proj", "down_proj")),
    "activated": LoRAConfig(r=3, lora_alpha=9, target_modules="all-linear", invocation=ASSISTANT),
}  # fmt: skip
NAMES = [*CONFIGS, NAME]
NOTES = ["The patient takes 20 mg.", "Pulse 88, regular.", "No known allergies.", "lisinopril?"]


def a_model(**changes):
    """Small and lively, with room for answers that take a while."""
    wide = dict(initializer_range=0.5, num_hidden_layers=2, max_position_embeddings=512)
    return tiny.model(5, tokenizer=WORDS, **{**wide, **changes}).eval()


def an_engine(most_rows=4, kept_positions=64, **settings) -> Engine:
    model = a_model()
    adapters = {n: an_adapter(model, config, i) for i, (n, config) in enumerate(CONFIGS.items(), 1)}
    bank = AdapterBank(model)
    for name, adapter in adapters.items():
        bank.add(name, adapter)
    return Engine(bank, most_rows, kept_positions=kept_positions, **settings)


def slow(engine: Engine, seconds: float = 0.01) -> list[int]:
    """Make each step take so long; a list that has a line for each."""
    step, steps = engine.step, []

    def slowly():
        steps.append(engine.active)
        time.sleep(seconds)
        return step()

    engine.step = slowly
    return steps


def alone(note: str, name: str, most: int = 24) -> tuple[list[int], str]:
    """The tokens and the text that a request gets by itself."""
    bank = an_engine().bank
    bank.use(BASE if name == NAME else name)
    stops = stop_ids(bank.model, WORDS)
    ids = generate(bank.model, [prompt_ids(WORDS, note)], most, stop_ids=stops)[0]
    return ids, answer_text(WORDS, ids, most)


class Client:
    """What asks a server; each request on a connection of its own."""

    def __init__(self, port: int, server, service: Service) -> None:
        self.port, self.server, self.service = port, server, service
        self.engine = service.engine

    def ask(self, path: str, body: object = None, method: str = "", **headers: str):
        """(status, value of the JSON or the text, headers)."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers} if data is not None else headers
        connection.request(method or ("GET" if data is None else "POST"), path, data, headers)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        kind = response.headers.get("content-type", "")
        value = json.loads(text) if kind.startswith("application/json") else text
        return response.status, value, response.headers

    def chat(self, note: str, name: str, most: int = 24, **more: object):
        return self.ask("/v1/chat/completions", chat_body(note, name, most, **more))

    def events(self, path: str, body: object) -> list:
        status, text, _ = self.ask(path, body)
        assert status == 200, text
        return events_in(text)

    def begin(self, body: object, path: str = "/v1/chat/completions") -> socket.socket:
        """A socket on which a request has been sent, and nothing read."""
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        own = self.connect()
        own.sendall(head.encode() + data)
        return own

    def connect(self) -> socket.socket:
        """A socket on which nothing has been sent."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)


def chat_body(note: str, name: str, most: int = 24, **more: object) -> dict:
    messages = [{"role": "user", "content": note}]
    return {"model": name, "messages": messages, "max_tokens": most, **more}


def text_of(value: dict) -> str:
    return value["choices"][0]["message"]["content"]


def events_in(text: str) -> list:
    """The values of a stream's events; its last must be [DONE] or an error."""
    lines = [one.removeprefix("data: ") for one in text.split("\n\n") if one]
    values = [json.loads(one) for one in lines if one != "[DONE]"]
    assert lines[-1] == "[DONE]" or "error" in values[-1], lines[-1]
    return values


def until(true, seconds: float = 20.0) -> None:
    """Wait until something is true; it must become so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.005)


@contextmanager
def serving(engine=None, most_waiting=64, route=None, grace=30.0, **settings):
    """A client of a server that runs in the `with`."""
    engine = an_engine() if engine is None else engine
    service = Service(engine, most_waiting, route)
    settings.setdefault("hosts", hosts_for("127.0.0.1"))
    server = make_server(service, WORDS, Settings(NAME, **settings), grace)
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        until(lambda: server.started)
        try:
            yield Client(port, server, service)
        finally:
            server.handle_exit(2, None)
            server.handle_exit(2, None)
            thread.join(30)
            assert not thread.is_alive()


def sampled(rng: np.random.Generator) -> dict:
    """Settings of a request that samples."""
    return {"temperature": 1.2, "top_p": 0.9, "seed": int(rng.integers(100))}
