"""Models and tokenizers in the ecosystem's own file formats."""

from minilora.hub.checkpoint import load_pretrained, save_pretrained
from minilora.hub.tokenizer import Tokenizer

__all__ = ["Tokenizer", "load_pretrained", "save_pretrained"]
