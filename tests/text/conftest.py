from tests.hub.conftest import make_model, saved, tokenizer

__all__ = ["make_model", "saved", "tokenizer"]
