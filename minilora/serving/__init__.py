"""Many adapters over one base in one set of memory."""

from minilora.serving.bank import BASE, AdapterBank

__all__ = ["BASE", "AdapterBank"]
