"""What the two measuring commands of a bank count and compare."""

import sys

import pytest

from minilora.bench import bank_memory, throughput
from minilora.bench.records import read_records
from minilora.lora import mark_base
from tests import tiny


@pytest.fixture
def base(tmp_path):
    return str(tiny.save(tmp_path / "base", tiny.tokenizer(), hidden_size=12))


def a_model():
    return tiny.model(hidden_size=12, num_attention_heads=9, num_key_value_heads=9)


def test_bytes_are_those_of_one_base_and_all_adapters():
    model = a_model()
    mark = mark_base(model)
    one = sum(p.data.nbytes for p in model.parameters())
    each = next(bank_memory.adapters_for(model, mark, 1)).nbytes
    assert bank_memory.of_a_bank(model, mark, 3) == {"bytes": one + 3 * each}
    assert bank_memory.of_copies(model, mark, 3) == {"bytes": 3 * one, "computed": False}
    assert not any(p.read_only for p in model.parameters())


def test_copies_that_take_too_much_are_computed(monkeypatch):
    model = a_model()
    one = sum(p.data.nbytes for p in model.parameters())
    monkeypatch.setattr(bank_memory, "MOST_BYTES", 2 * one)
    told = bank_memory.of_copies(model, mark_base(model), 3)
    assert told == {"bytes": 3 * one, "computed": True}


def test_a_record_is_printed_and_written(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bank_memory, "CONFIG", bank_memory.LoRAConfig(r=2))
    monkeypatch.setattr(bank_memory, "COUNTS", (1, 2))
    monkeypatch.setattr(bank_memory, "SWAPS", 20)
    out = tmp_path / "memory.json"
    monkeypatch.setattr(sys, "argv", ["bank_memory", base, "--json", str(out)])
    bank_memory.main()
    assert "swap" in capsys.readouterr().out
    command, _, (record,) = read_records([out])
    assert command.startswith("python -m minilora.bench.bank_memory")
    assert [line["adapters"] for line in record["memory"]] == [1, 2]
    assert set(record["swap seconds"]) == {"in memory", "from its folder", "attach and detach"}


def test_every_way_gives_the_answers_that_requests_get_alone(base, monkeypatch, capsys):
    monkeypatch.setattr(bank_memory, "CONFIG", bank_memory.LoRAConfig(r=2))
    for name, value in {"NEW_TOKENS": 5, "SHORTEST": 2, "LONGEST": 6}.items():
        monkeypatch.setattr(throughput, name, value)
    flags = ["--requests", "5", "--adapters", "2", "--rows", "1", "3"]
    monkeypatch.setattr(sys, "argv", ["throughput", base, *flags])
    throughput.main()
    told = [line for line in capsys.readouterr().out.splitlines() if "tokens/s" in line]
    assert len(told) == 4 and all("5 of 5 as alone" in line for line in told)
