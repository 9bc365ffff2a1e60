"""What training and adapters are made of and cost, measured."""

from minilora.analysis.bill import METHODS, SHAPES, Batch, Bill, bill, bill_of, counted_bill
from minilora.analysis.kept import kept_arrays

__all__ = [
    "METHODS",
    "SHAPES",
    "Batch",
    "Bill",
    "bill",
    "bill_of",
    "counted_bill",
    "kept_arrays",
]
