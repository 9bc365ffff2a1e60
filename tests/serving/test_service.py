"""What the server stands on, without HTTP: texts, an engine that fits the memory, routers."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from minilora.hub import save_pretrained
from minilora.hub.several import NamedAdapter
from minilora.lora import Adapter, LoRAConfig, mark_base
from minilora.nn import generate, store_base
from minilora.serving import BASE, Centres, Engine, FullError, Request
from minilora.serving.centres import read_means
from minilora.serving.http.texts import AnswerText
from minilora.serving.opening import (
    called,
    engine_in_memory,
    open_engine,
    open_router,
    position_bytes,
)
from minilora.serving.router import Choice
from minilora.serving.service import (
    ROUTER,
    ClosingError,
    Service,
    UnknownAdapterError,
    threads_beside_a_loop,
)
from minilora.text.streaming import answer_text
from tests import tiny
from tests.says import refusal
from tests.serving.served import CONFIGS, WORDS, a_model, an_engine, slow
from tests.serving.test_bank import an_adapter

# -- texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [(), ("lisinopril",), ("mg", "of"), (". P", "8"), ("zzz", "dai")])
def test_pieces_are_the_text_before_the_first_stop_text(stops):
    ids = WORDS.encode(tiny.TEXT + " ärztlich €")
    text = AnswerText(WORDS, len(ids) + 1, stops)
    pieces = []
    for token in ids:
        pieces.append(text.add(token))
    pieces.append(text.end())
    whole = answer_text(WORDS, ids, len(ids) + 1)
    ends = [whole.index(stop) for stop in stops if stop in whole]
    assert "".join(pieces) == whole[: min(ends, default=len(whole))]
    assert text.stopped == bool(ends)
    assert sum(map(bool, pieces)) > 2


def test_what_may_begin_a_stop_text_is_held_back():
    ids = WORDS.encode("20 mg o")
    text = AnswerText(WORDS, 99, ("mg or",))
    told = "".join(text.add(token) for token in ids)
    assert told == "20 " and text.end() == "mg o"


# -- an engine that fits ------------------------------------------------------------------------


def a_bank():
    return an_engine().bank


def test_rows_are_as_many_as_the_memory_holds():
    bank = a_bank()
    each = position_bytes(bank.model.config)
    row = bank.model.config.max_position_embeddings * each
    assert engine_in_memory(bank, memory=4 * row * 7).most_rows == 7
    assert engine_in_memory(bank, memory=4 * row * 7000).most_rows == 64
    assert engine_in_memory(bank, context=100, memory=4 * 100 * each * 3).most_rows == 3
    assert engine_in_memory(bank, 5, memory=4 * row * 5).most_rows == 5
    with refusal(ValueError, 6):
        engine_in_memory(bank, 6, memory=4 * row * 5)
    with refusal(ValueError, "context"):
        engine_in_memory(bank, memory=4 * row - 1)
    with refusal(ValueError, "context", 513):
        engine_in_memory(bank, context=513)


def test_the_bytes_of_a_position_are_the_caches():
    engine = an_engine(most_rows=1, longest=40)
    engine.submit(Request([1, 2, 3], max_new_tokens=37))
    engine.step()
    held = sum(array.nbytes for cache in engine._decoding.caches for array in cache.pool)
    assert held == 40 * position_bytes(engine.bank.model.config)
    with refusal(ValueError, 38, 40):
        engine.submit(Request([1, 2, 3], max_new_tokens=38))


def test_the_pool_is_never_larger_than_rows_and_longest():
    engine = an_engine(most_rows=5, longest=50)
    for length, new in ((3, 20), (20, 5), (26, 24), (4, 4), (30, 20), (40, 10), (2, 2)):
        engine.submit(Request([5] * length, max_new_tokens=new))
        engine.step()
    rows, _, columns, _ = engine._decoding.caches[0].pool[0].shape
    assert rows <= 5 and columns == 50


# -- opening ------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_rounded_base_is_unpacked_and_says_the_same(tmp_path, dtype, packed):
    model = a_model()
    save_pretrained(tmp_path / "base", model, WORDS)
    store_base(model, dtype)
    mark = mark_base(model, str(tmp_path / "base"), WORDS)
    linears = dict(model.named_modules())
    rng, factors = np.random.default_rng(0), {}
    for i in range(2):
        name = f"model.layers.{i}.self_attn.q_proj"
        out, into = linears[name].weight.shape
        factors[name] = tuple(
            rng.normal(0, 0.4, shape).astype(np.float32) for shape in ((2, into), (out, 2))
        )
    config = LoRAConfig(r=2, lora_alpha=4, target_modules=("q_proj",))
    adapter = Adapter(config, factors, base=mark, provenance={"base_dtype": dtype})
    adapter.write(tmp_path / "mine")
    opened = open_engine(
        [NamedAdapter("mine", tmp_path / "mine")], str(tmp_path / "base"), packed=packed
    )
    assert opened.name == "base"
    held = {type(p.data) for p in opened.engine.bank.model.parameters()}
    assert (held == {np.ndarray}) == (dtype == "float32" or not packed)
    opened.engine.submit(Request([5, 6, 7], "mine", max_new_tokens=9))
    opened.engine.bank.use("mine")
    alone = generate(opened.engine.bank.model, [[5, 6, 7]], 9)
    opened.engine.bank.use(BASE)
    assert list(opened.engine.run().values()) == alone


def test_what_a_base_is_called(tmp_path):
    assert called("smollm2-135m") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert called(str(tmp_path)) == tmp_path.name
    assert called("ward-base") == "ward-base"


def test_a_router_by_reading_chooses_as_it_does_alone(tmp_path):
    engine = an_engine()
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 300, 9).tolist() for _ in range(12)]
    readings = {n: read_means(engine.bank, prompts[i::3]) for i, n in enumerate(CONFIGS)}
    Centres.learn(readings).write(tmp_path / "c.safetensors")
    route = open_router(tmp_path / "c.safetensors", engine, WORDS)
    alone = Centres.read(tmp_path / "c.safetensors").route(engine.bank, prompts)
    assert len({choice.name for choice in alone}) == 3
    engine.bank.use("plain")  # the base reads, whatever the bank is using
    engine.submit(Request(prompts[0], "wide", max_new_tokens=30))
    engine.step()
    for prompt, expected in zip(prompts, alone, strict=True):  # in the middle of an answer
        choice = route(prompt)
        assert choice.name == expected.name
        assert list(choice.losses.values()) == pytest.approx(list(expected.losses.values()), 1e-4)
    (answer,) = engine.run().values()
    engine.bank.use("wide")
    # The first of its tokens came with the step before.
    assert generate(engine.bank.model, [prompts[0]], 30)[0][1:] == answer
    engine.bank.use(BASE)


def test_a_router_by_rule(tmp_path):
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({"plain": "Pulse", "wide": r"\d mg"}))
    route = open_router(path, an_engine(), WORDS)
    texts = ("Pulse 88", "20 mg", "nothing")
    assert [route(WORDS.encode(text)).name for text in texts] == ["plain", "wide", None]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"plain": "("}', '{"stranger": "x"}'])
def test_rules_that_are_none_are_refused(tmp_path, text):
    (tmp_path / "rules.json").write_text(text)
    with refusal(ValueError):
        open_router(tmp_path / "rules.json", an_engine(), WORDS)


def test_centres_of_strangers_and_of_another_base_are_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    rng = np.random.default_rng(0)
    Centres.learn({"stranger": rng.normal(size=(4, 10))}).write(path)
    with refusal(ValueError, path, "stranger"):
        open_router(path, an_engine(), WORDS)
    Centres.learn({"plain": rng.normal(size=(4, 7))}).write(path)
    with refusal(ValueError, path, 7, 10):
        open_router(path, an_engine(), WORDS)


@pytest.mark.parametrize(
    ("width", "cores", "threads"), [(128, 8, 1), (576, 1, 1), (576, 2, 1), (576, 4, 3), (576, 8, 4)]
)
def test_a_core_is_left_to_the_loop(monkeypatch, width, cores, threads):
    for name in ("MINILORA_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("minilora.machine.physical_cores", lambda: cores)
    monkeypatch.setattr("minilora.serving.service.physical_cores", lambda: cores)
    assert threads_beside_a_loop(width) == threads
    monkeypatch.setenv("MINILORA_THREADS", "7")
    assert threads_beside_a_loop(width) == 7


# -- the service --------------------------------------------------------------------------------


def run(engine, work, **settings):
    """What the coroutine `work(service)` returns."""

    async def all_of_it():
        async with Service(engine, **settings) as service:
            return await work(service)

    return asyncio.run(asyncio.wait_for(all_of_it(), 60))


async def told_of(answers):
    told = []
    async for some in answers:
        told += some
    return told


def tokens_of(told, index=0):
    return [one.token for one in told if one.index == index and one.token is not None]


def alone_ids(prompt, name, most):
    bank = a_bank()
    bank.use(name)
    return generate(bank.model, [prompt], most)[0]


def test_requests_are_all_asked_or_none():
    async def work(service):
        good, bad = Request([1, 2], "plain"), Request([1, 2], "nobody")
        with refusal(UnknownAdapterError, "nobody"):
            service.ask([good, bad])
        with refusal(ValueError, 512):
            service.ask([good, Request([1] * 500, "plain", max_new_tokens=13)])
        with refusal(UnknownAdapterError, ROUTER):
            service.ask([Request([1], ROUTER)])
        with refusal(FullError, 6, 5):
            service.ask([good] * 6)
        assert service.open == 0
        told = await told_of(service.ask([good] * 5))
        assert service.open == 0
        return [tokens_of(told, i) for i in range(5)]

    expected = alone_ids([1, 2], "plain", 64)
    assert run(an_engine(most_rows=3), work, most_waiting=2) == [expected] * 5


def test_an_answer_that_is_there_before_anybody_listens_is_not_lost():
    async def work(service):
        answers = service.ask([Request([1, 2], "plain", max_new_tokens=2)])
        while service.open:
            await asyncio.sleep(0.01)
        return tokens_of(await told_of(answers))

    assert run(an_engine(), work) == alone_ids([1, 2], "plain", 2)


def test_one_of_several_is_given_up_and_the_others_go_on():
    engine = an_engine(most_rows=2)
    slow(engine)

    async def work(service):
        requests = [Request([i + 1, 2], "plain", max_new_tokens=30) for i in range(4)]
        answers, told = service.ask(requests), []
        async for some in answers:
            told += some
            if len(told) > 8:
                answers.cancel(0)  # one that is being answered
                answers.cancel(3)  # and one that waits
        return told

    told = run(engine, work)
    ends = {one.index: one.ended for one in told if one.ended}
    assert ends[0] == ends[3] == "cancelled" and {ends[1], ends[2]} <= {"length", "stop"}
    for i in (1, 2):
        assert tokens_of(told, i) == alone_ids([i + 1, 2], "plain", 30)
    assert tokens_of(told, 3) == [] and len(tokens_of(told, 0)) < 30


def test_at_the_end_all_are_told_and_nothing_new_is_taken():
    engine = an_engine(most_rows=1)
    slow(engine)

    async def work(service):
        answers = service.ask([Request([1], "wide", max_new_tokens=200)] * 3)
        await asyncio.sleep(0.1)
        service.end_all("bye")
        with pytest.raises(ClosingError):
            service.ask([Request([1])])
        return await told_of(answers)

    told = run(engine, work)
    assert [(one.ended, one.error) for one in told if one.ended] == [("broken", "bye")] * 3
    assert engine.active == engine.waiting == 0
    engine.bank.use("wide")  # the model is free again
    engine.bank.use(BASE)


def test_an_adapter_that_the_router_chose_and_that_has_gone_is_told():
    async def work(service):
        await service.remove("wide")
        return await told_of(service.ask([Request([1, 2], ROUTER)]))

    told = run(an_engine(), work, route=lambda _: Choice("wide"))
    assert told[0].choice.name == "wide"
    assert told[-1].ended == "broken" and "wide" in told[-1].error


def test_names_that_stand_for_others_are_taken():
    async def work(service):
        for name in (ROUTER, BASE, "plain"):
            with refusal(ValueError, name):
                await service.add(name, "nowhere")
        with refusal(UnknownAdapterError, "nobody"):
            await service.remove("nobody")
        return service.names

    assert run(an_engine(), work) == ("activated", "plain", "wide")


def test_an_engine_that_is_abandoned_is_as_new():
    engine = an_engine(most_rows=2)
    drop = engine._drop_ended

    def fails():
        raise MemoryError("no room")

    for _ in range(3):
        engine.submit(Request([1, 2, 3], "wide"))
    engine._drop_ended = fails
    with pytest.raises(MemoryError):
        engine.step()
    engine._drop_ended = drop
    engine.abandon()
    assert engine.active == engine.waiting == 0 and not engine.uses("wide")
    engine.bank.remove("wide")  # nobody holds it
    number = engine.submit(Request([1, 2], "plain", max_new_tokens=20))
    assert engine.run()[number] == alone_ids([1, 2], "plain", 20)


def test_positions_that_were_known_are_counted():
    engine = Engine(a_bank(), kept_positions=64)
    prompt = [5, 6, 7, 8, 9]
    for _ in range(2):
        engine.submit(Request(prompt, BASE, max_new_tokens=2))
        engine.run()
    assert (engine.read_positions, engine.known_positions) == (6, 4)


def test_an_adapter_of_another_base_is_refused_and_those_loaded_stay(tmp_path):
    an_adapter(a_model(hidden_size=14), CONFIGS["plain"], 3).write(tmp_path / "other")

    async def work(service):
        with pytest.raises(ValueError):
            await service.add("other", tmp_path / "other")
        return tokens_of(await told_of(service.ask([Request([1, 2], "wide", max_new_tokens=9)])))

    assert run(an_engine(), work) == alone_ids([1, 2], "wide", 9)
