"""Models in the ecosystem's own file formats."""

from minilora.hub.checkpoint import load_pretrained, save_pretrained
from minilora.hub.gguf import GGUFFile, load_gguf

__all__ = ["GGUFFile", "load_gguf", "load_pretrained", "save_pretrained"]
