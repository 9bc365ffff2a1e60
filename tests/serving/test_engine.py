"""Requests that join and leave a running batch get the answers that they get alone."""

import numpy as np
import pytest

from minilora.nn import generate
from minilora.serving import BASE, AdapterBank, Engine, FullError, Request
from minilora.serving.kept import KeptBeginnings
from tests.says import refusal
from tests.serving.test_bank import CONFIGS, NAMES, PROMPTS, a_bank, a_model, folders_for

ROOM = 9


def requests_of(seed: int, count: int = 14) -> list[Request]:
    """Requests of all adapters, of different lengths, some sampled, some with stop tokens."""
    rng, names = np.random.default_rng(seed), [*CONFIGS, BASE]
    made = []
    for i in range(count):
        made.append(
            Request(
                tuple(PROMPTS[rng.integers(len(PROMPTS))]),
                NAMES[i] if i < len(NAMES) else names[rng.integers(len(names))],
                max_new_tokens=int(rng.integers(1, ROOM + 1)),
                temperature=float(rng.choice([0.0, 0.0, 1.3])),
                top_p=0.9,
                seed=int(rng.integers(100)),
                stop_ids=frozenset(rng.integers(0, 37, 2).tolist()),
            )
        )
    return made


def alone(bank: AdapterBank, request: Request) -> list[int]:
    """The request's answer by itself."""
    bank.use(request.adapter)
    try:
        return generate(
            bank.model, [list(request.prompt)], request.max_new_tokens,
            temperature=request.temperature, top_p=request.top_p,
            rng=np.random.default_rng(request.seed), stop_ids=request.stop_ids,
        )[0]  # fmt: skip
    finally:
        bank.use(BASE)


def drained(engine: Engine) -> list:
    events = []
    while engine.active or engine.waiting:
        events += engine.step()
    return events


def answers_in(events, numbers) -> list[list[int]]:
    told = [[e.token for e in events if e.number == n and e.token is not None] for n in numbers]
    return told


@pytest.mark.parametrize("most_rows", [1, 3, 64])
@pytest.mark.parametrize("seed", range(4))
def test_each_answer_is_the_one_that_the_request_gets_alone(seed, most_rows):
    bank, _ = a_bank()
    asked = requests_of(seed)
    expected = [alone(bank, one) for one in asked]
    engine, rng, events, numbers = Engine(bank, most_rows), np.random.default_rng(seed), [], []
    left = list(asked)
    while left or engine.active or engine.waiting:
        for _ in range(rng.integers(0, 4)):  # some come at each step
            if left:
                numbers.append(engine.submit(left.pop(0)))
        events += engine.step()
        assert engine.active <= most_rows
    assert answers_in(events, numbers) == expected
    for number, one, answer in zip(numbers, asked, expected, strict=True):
        (end,) = [e.ended for e in events if e.number == number and e.ended]
        assert end == ("length" if len(answer) == one.max_new_tokens else "stop")
    assert len({tuple(answer) for answer in expected}) > 5


def test_run_answers_all_that_is_asked():
    bank, _ = a_bank()
    asked = requests_of(7, 6)
    expected = [alone(bank, one) for one in asked]
    engine = Engine(bank)
    numbers = [engine.submit(one) for one in asked]
    assert engine.run() == dict(zip(numbers, expected, strict=True))
    again = engine.submit(asked[0])
    assert engine.run() == {again: expected[0]}


def test_the_model_and_the_bank_are_free_before_and_after_and_not_between():
    bank, _ = a_bank()
    bank.use("wide")
    bank.model.train()
    engine = Engine(bank)
    engine.submit(Request(PROMPTS[0], "plain", 4))
    engine.step()
    for run in (lambda: bank.use("one"), lambda: bank.rows(["one"]).__enter__(), bank.close):
        with pytest.raises(ValueError):
            run()
    with refusal(ValueError, "plain"):
        bank.remove("plain")
    drained(engine)
    assert bank.using == "wide" and bank.model.training and bank.model.generations == 0
    bank.use("one")
    bank.remove("plain")


def test_a_step_within_another_generation_is_refused():
    bank, _ = a_bank()
    engine = Engine(bank)
    engine.submit(Request(PROMPTS[0], max_new_tokens=2))
    with refusal(ValueError, "step"):
        generate(bank.model, PROMPTS[:1], 3, on_token=lambda _: engine.step())
    assert engine.run() == {0: alone(bank, Request(PROMPTS[0], max_new_tokens=2))}


def test_a_cancelled_request_leaves_and_the_others_stay_what_they_are():
    bank, _ = a_bank()
    asked = [Request(p, n, ROOM) for p, n in zip(PROMPTS, NAMES, strict=True)]
    expected = [alone(bank, one) for one in asked]
    engine = Engine(bank, most_rows=6)
    numbers = [engine.submit(one) for one in asked]
    events = [e for _ in range(3) for e in engine.step()]
    engine.cancel(numbers[2])  # one that is being answered
    engine.cancel(numbers[-1])  # one that waits
    engine.cancel(999)
    events += drained(engine)
    told = answers_in(events, numbers)
    assert told[2] == expected[2][:3] and told[-1] == []
    assert [e.ended for e in events if e.number == numbers[2] and e.ended] == ["cancelled"]
    for i in set(range(len(asked))) - {2, len(asked) - 1}:
        assert told[i] == expected[i]


def test_what_generate_refuses_is_refused_and_so_is_a_full_queue():
    bank, _ = a_bank()
    engine = Engine(bank, most_rows=1, most_waiting=2)
    for request, named in (
        (Request([]), ()),
        (Request([1], "nobody"), ("nobody",)),
        (Request([1] * 9, max_new_tokens=128), (9, 128)),
        (Request([1], max_new_tokens=0), (0,)),
        (Request([1], temperature=-1.0), ("temperature", -1.0)),
        (Request([1], temperature=1.0, top_p=0.0), (0.0,)),
        (Request([1], seed=-1), ("seed", -1)),
    ):
        with refusal(ValueError, *named):
            engine.submit(request)
    engine.submit(Request([1]))
    engine.submit(Request([2]))
    with refusal(FullError, 2):
        engine.submit(Request([3]))
    assert engine.waiting == 2 and engine.active == 0


def test_requests_wait_until_their_adapters_have_room_in_memory(tmp_path):
    model = a_model()
    folders = folders_for(model, tmp_path)
    bank = AdapterBank(model, most_resident=2)
    for name, folder in folders.items():
        bank.add(name, folder)
    asked = [Request(p, n, ROOM) for p, n in zip(PROMPTS, NAMES, strict=True)]
    expected = [alone(bank, one) for one in asked]
    engine, events = Engine(bank), []
    numbers = [engine.submit(one) for one in asked]
    while engine.active or engine.waiting:
        events += engine.step()
        assert len(bank.resident) <= 2
    assert answers_in(events, numbers) == expected


def test_an_adapter_that_went_away_ends_its_request_alone(tmp_path):
    model = a_model()
    folders = folders_for(model, tmp_path)
    bank = AdapterBank(model, most_resident=2)
    for name in ("plain", "wide", "one"):
        bank.add(name, folders[name])
    kept = alone(bank, Request(PROMPTS[0], "wide", 5))
    engine = Engine(bank)
    gone = engine.submit(Request(PROMPTS[0], "plain", 5))
    number = engine.submit(Request(PROMPTS[0], "wide", 5))
    bank.remove("plain")
    events = drained(engine)
    (end,) = [e for e in events if e.number == gone]
    assert end.ended == "broken" and "plain" in end.error
    assert answers_in(events, [number]) == [kept]


def test_logits_that_are_not_finite_end_their_request_alone():
    bank, _ = a_bank()
    kept = alone(bank, Request(PROMPTS[0], "wide", 5))
    engine = Engine(bank)
    number, broken = (engine.submit(Request(PROMPTS[0], name, 5)) for name in ("wide", "plain"))
    events = engine.step()
    engine._rows[1].logits[3] = np.nan
    events += drained(engine)
    assert answers_in(events, [number]) == [kept]
    assert len(answers_in(events, [broken])[0]) == 1
    assert [e.ended for e in events if e.number == broken][-1] == "broken"


def test_long_prompts_join_one_a_step():
    bank, _ = a_bank()
    engine = Engine(bank, most_read=8)
    for _ in range(3):
        engine.submit(Request([1, 2, 3, 4, 5], max_new_tokens=3))
    active = []
    for _ in range(3):
        engine.step()
        active.append(engine.active)
    assert active == [1, 2, 2]  # the first has ended when the third joins


# -- beginnings that are kept ------------------------------------------------------------------

NOTE = [4, 9, 2, 6, 5, 11, 9, 2]
"""What several requests begin with; the invocations of test_bank.py come after it."""
SHARING = [
    Request([*NOTE, 3, 1, 7], "activated", ROOM),
    Request([*NOTE, 3, 1, 5], "activated", ROOM),
    Request([*NOTE, 8, 2], "woken", ROOM),
    Request([*NOTE, 8, 2], BASE, ROOM),
    Request([*NOTE, 8, 2], BASE, ROOM),
    Request([*NOTE, 8, 2], "plain", ROOM),
    Request([*NOTE[:4], 8, 2], "woken", ROOM),
    Request([8, 5, 5], "woken", ROOM),
    Request(NOTE, "activated", ROOM),
]


def read_lengths(engine, monkeypatch) -> list[int]:
    """How many tokens of each prompt are read, as the engine goes on."""
    lengths, hidden_states = [], engine.bank.model.hidden_states

    def counted(ids, *rest, **more):
        lengths.append(ids.shape[1])
        return hidden_states(ids, *rest, **more)

    monkeypatch.setattr(engine.bank.model, "hidden_states", counted)
    return lengths


def test_one_reading_serves_the_base_and_every_activated_adapter(monkeypatch):
    bank, _ = a_bank()
    expected = [alone(bank, one) for one in SHARING]
    engine = Engine(bank, kept_positions=64)
    numbers = [engine.submit(one) for one in SHARING]
    lengths = read_lengths(engine, monkeypatch)
    assert engine.run() == dict(zip(numbers, expected, strict=True))
    # The note is read once; a plain adapter reads it all, and a prompt's last token is read always.
    assert lengths == [11, 3, 2, 2, 1, 10, 2, 3, 1]
    assert len({tuple(answer) for answer in expected}) > 5


@pytest.mark.parametrize(("most", "positions"), [(0, 0), (7, 4), (12, 10)])
def test_kept_positions_are_bounded(most, positions):
    bank, _ = a_bank()
    expected = [alone(bank, one) for one in SHARING]
    engine, answers = Engine(bank, kept_positions=most), {}
    for one in SHARING:
        engine.submit(one)
        answers |= engine.run()
        assert engine.kept.positions <= most
    assert list(answers.values()) == expected
    assert engine.kept.positions == positions


def test_what_is_shared_is_found_and_what_was_used_longest_ago_goes():
    kept = KeptBeginnings(10)
    kept.keep([1, 2, 3], ["a"])
    kept.keep([1, 2, 4, 5], ["b"])
    assert kept.find([1, 2, 3, 9]) == (3, ["a"]) and kept.find([7]) == (0, ())
    assert kept.find([1, 2, 4, 5]) == (4, ["b"]) and kept.find([]) == (0, ())
    kept.keep([1, 2, 3, 6], ["c"])  # it continues "a", which is not held beside it
    assert kept.positions == 8 and kept.find([1, 2, 3]) == (3, ["c"])
    kept.keep([8, 8, 8], ["d"])
    assert kept.positions == 7 and kept.find([1, 2, 4, 5])[0] == 2
    kept.keep([9] * 11, ["too long"])
    kept.keep([8, 8], ["held already"])
    assert kept.positions == 7 and kept.find([8, 8]) == (2, ["d"])
