"""Proof that the gradients are right: the check, slow twins, planted mistakes, every case."""
