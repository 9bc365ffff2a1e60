"""What minilora is compared with: a textbook autograd, torch with PEFT, and the bare matmuls.

`minilora bench` runs each in a process of its own; `race.py` makes them take turns.
"""
