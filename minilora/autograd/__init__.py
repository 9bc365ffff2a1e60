"""Reverse-mode automatic differentiation on raw arrays, every vjp written by hand."""

from minilora.autograd import functional, ops
from minilora.autograd.functional import IGNORE
from minilora.autograd.tensor import Tensor, is_grad_enabled, no_grad

__all__ = ["IGNORE", "Tensor", "functional", "is_grad_enabled", "no_grad", "ops"]
