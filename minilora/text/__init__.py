"""Text in and out: tokenizer and chat template, records, examples, answers."""

from minilora.text.examples import Example, encode_record, encode_records
from minilora.text.records import Problem, Record, prompt_messages
from minilora.text.rows import read_records
from minilora.text.tokenizer import Tokenizer

__all__ = [
    "Example",
    "Problem",
    "Record",
    "Tokenizer",
    "encode_record",
    "encode_records",
    "prompt_messages",
    "read_records",
]
