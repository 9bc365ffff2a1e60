"""The layer of chapter 4: alpha is not r, and A and B are not zero."""


def _layer(names, rng):
    W = rng.standard_normal((4, 5))
    shapes = {"x": (7, 5), "A": (2, 5), "B": (4, 2)}
    inputs = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return (lambda x, A, B: names["lora_linear"](x, W, A, B, 3.0)), inputs


CASES = {"lora_linear": _layer}
