"""One reading for many adapters: the record, and that another answer is no answer."""

import sys

import pytest

from minilora.bench import bank_memory, one_reading
from minilora.bench.records import read_records
from tests import tiny


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setattr(bank_memory, "CONFIG", bank_memory.LoRAConfig(r=2))
    monkeypatch.setattr(one_reading, "NEW_TOKENS", 4)
    monkeypatch.setattr(one_reading, "COUNTS", (1, 3))
    return str(
        tiny.save(tmp_path / "base", tiny.tokenizer(), hidden_size=12, max_position_embeddings=512)
    )


def test_a_record_is_printed_and_written(base, tmp_path, monkeypatch, capsys):
    out = tmp_path / "reading.json"
    monkeypatch.setattr(sys, "argv", ["one_reading", base, "--rounds", "2", "--json", str(out)])
    one_reading.main()
    assert "adapters 3" in capsys.readouterr().out
    _, _, (record,) = read_records([out])
    assert [line["adapters"] for line in record["answers"]] == [1, 3]
    assert 0 < record["read"] < record["prompt"]
    assert all(line["one reading"] > 0 for line in record["answers"])


def test_another_answer_from_the_shared_reading_raises(base, monkeypatch):
    real = one_reading.generate

    def wrong(model, prompts, count, reading=None):
        tokens = real(model, prompts, count, reading=reading)
        return [row[:-1] for row in tokens] if reading is not None else tokens

    monkeypatch.setattr(one_reading, "generate", wrong)
    with pytest.raises(RuntimeError):
        one_reading.measure(base, 1)
