"""A Hugging Face tokenizer folder: text to ids and back, and the model's chat template."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from minilora.storage import read_json

SPECIAL_TOKENS = ("<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def _raise(message: str) -> None:
    raise TemplateError(message)


class Tokenizer:
    """`tokenizers.Tokenizer` with the special tokens and chat template of its folder.

    backend: the tokenizer itself; config: the parsed tokenizer_config.json.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: dict) -> None:
        self.backend, self.config = backend, config
        # Sandboxed, as the template comes with the weights: it can read the messages, no more.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = datetime.datetime.now().strftime
        environment.filters["tojson"] = lambda x, **k: json.dumps(x, **{"ensure_ascii": False, **k})
        template = config.get("chat_template")
        if isinstance(template, list):  # several, by name
            template = {t["name"]: t["template"] for t in template}.get("default")
        try:
            self._template = environment.from_string(template) if template else None
        except TemplateError as error:
            raise ValueError(f"the chat template is not Jinja: {error}") from None

    @classmethod
    def from_folder(cls, folder: Path | str) -> Tokenizer:
        """Read tokenizer.json and tokenizer_config.json. Raises ValueError naming a bad file."""
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"{folder} has no tokenizer.json, expected a Hugging Face folder")
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception for a bad file
            raise ValueError(f"{path} can't be read as a tokenizer: {error}") from None
        settings = folder / "tokenizer_config.json"
        config = read_json(settings) if settings.exists() else {}
        jinja = folder / "chat_template.jinja"
        if jinja.is_file():
            config["chat_template"] = jinja.read_text("utf-8")
        try:
            return cls(backend, config)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """A byte-level BPE trained on texts (Sennrich et al. 2016; bytes as in GPT-2)."""
        backend = tokenizers.Tokenizer(tokenizers.models.BPE())
        backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": "<|pad|>",
            "eos_token": "<|end|>",
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            "chat_template": CHAT_TEMPLATE,
        }
        return cls(backend, config)

    def save(self, folder: Path | str) -> None:
        """Write tokenizer.json and tokenizer_config.json into an existing folder."""
        self.backend.save(str(Path(folder) / "tokenizer.json"))
        text = json.dumps(self.config, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
        (Path(folder) / "tokenizer_config.json").write_text(text, "utf-8")

    # -- ids -------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special ones included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def _special_text(self, name: str) -> str | None:
        token = self.config.get(name)
        return token.get("content") if isinstance(token, dict) else token

    def _special(self, name: str) -> int | None:
        token = self._special_text(name)
        return None if token is None else self.backend.token_to_id(token)

    @property
    def eos_id(self) -> int | None:
        """Id of the token that ends an answer."""
        return self._special("eos_token")

    @property
    def pad_id(self) -> int:
        """Id that fills up short rows (0 where the folder names none; it carries no loss)."""
        return self._special("pad_token") or 0

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; special tokens written in it count as such, none are added."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return self.backend.decode(list(ids), skip_special_tokens=True)

    # -- chat ------------------------------------------------------------------------------

    def apply_chat_template(
        self, messages: Sequence[dict], add_generation_prompt: bool = True
    ) -> str:
        """The messages as one text, as the model was trained to read them.

        Raises ValueError when the folder has no chat template or the template refuses.
        """
        if self._template is None:
            raise ValueError("the tokenizer has no chat template, expected one for messages")
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        texts = {name: self._special_text(name) for name in names}
        special = {name: text for name, text in texts.items() if text is not None}
        try:
            return self._template.render(
                messages=list(messages), add_generation_prompt=add_generation_prompt, **special
            )
        except TemplateError as error:
            raise ValueError(f"the chat template refused the messages: {error}") from None

    def encode_prompt(self, prompt: str) -> list[int]:
        """Ids of one user message, up to where the assistant's answer begins."""
        message = {"role": "user", "content": prompt}
        return self.encode(self.apply_chat_template([message], add_generation_prompt=True))
