"""The race harness: minilora beside torch with PEFT, a textbook autograd and the bare matmuls.

`minilora bench` runs each in a process of its own; `race.py` makes them take turns.
"""
