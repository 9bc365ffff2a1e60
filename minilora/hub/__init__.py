"""Models and tokenizers in the ecosystem's own file formats."""

from minilora.hub.checkpoint import load_pretrained, save_pretrained
from minilora.hub.gguf import GGUFFile, load_gguf
from minilora.hub.tokenizer import Tokenizer

__all__ = ["GGUFFile", "Tokenizer", "load_gguf", "load_pretrained", "save_pretrained"]
