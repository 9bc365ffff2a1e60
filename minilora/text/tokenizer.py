"""A Hugging Face tokenizer folder: text to ids and back, and the model's chat template."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers

from minilora.storage import one_line, read_json
from minilora.text.chat_template import ChatTemplate, template_of

SPECIAL_TOKENS = ("<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# The named tokens of a tokenizer_config.json, which a chat template can write.
NAMED_TOKENS = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip
OLD_EXTRA = "additional_special_tokens"
MARKS = ("lstrip", "normalized", "rstrip", "single_word")
"""How a special token that is written as an object is found in a text."""


class Tokenizer:
    """`tokenizers.Tokenizer` with the special tokens and chat template of its folder.

    backend: the tokenizer itself; config: the parsed tokenizer_config.json.
    Raises ValueError for a special token or a chat template that is none.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: dict) -> None:
        self.backend, self.config = backend, config
        self._named = {name: _token_text(name, v) for name, v in _named_tokens(config).items()}
        template = template_of(config)
        self._template = None if template is None else ChatTemplate(template)

    @classmethod
    def from_folder(cls, folder: Path | str) -> Tokenizer:
        """Read tokenizer.json and tokenizer_config.json. Raises ValueError naming a bad file."""
        folder = Path(folder)
        path, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
        if not path.is_file():
            raise ValueError(f"{folder} has no tokenizer.json, expected a Hugging Face folder")
        backend = _read_backend(path)
        config = read_json(settings) if settings.exists() else {}
        jinja = folder / "chat_template.jinja"
        if jinja.is_file():
            config["chat_template"] = _read_template(jinja)
        try:
            complete(backend, config)
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
        """One more than the highest token id, special tokens included."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1)

    def _special(self, name: str) -> int | None:
        token = self._named.get(name)
        return None if token is None else self.backend.token_to_id(token)

    @property
    def eos_id(self) -> int | None:
        """Id of the token that ends an answer."""
        return self._special("eos_token")

    @property
    def pad_id(self) -> int:
        """Id that fills up short rows (0 where the folder names none; it carries no loss)."""
        return self._special("pad_token") or 0

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Token ids of a text; special tokens written in it count as such.

        add_special_tokens: with those that the tokenizer sets around every text.
        Raises ValueError for a text that is not Unicode, as bytes of another encoding leave it.
        """
        return self.encoding(text, add_special_tokens).ids

    def encoding(self, text: str, add_special_tokens: bool = False) -> tokenizers.Encoding:
        """As `encode`: the ids with the places in the text from which each comes."""
        try:
            return self.backend.encode(text, add_special_tokens=add_special_tokens)
        except (TypeError, UnicodeError):
            _require_unicode(text)
            raise

    def text_ends(self) -> tuple[list[int], list[int]]:
        """Ids before and after a text that stands alone.

        Those before it are what the tokenizer adds; those after it end with the end of sequence,
        where there is one, as nothing else teaches a model to end.
        """
        plain, whole = self.encode("a"), self.encode("a", add_special_tokens=True)
        places = range(len(whole) - len(plain) + 1)
        at = next((i for i in places if whole[i : i + len(plain)] == plain), None)
        if at is None:
            raise ValueError(
                f"the tokenizer makes of 'a' {plain}, and with its special tokens {whole}, "
                "expected the first among the second"
            )
        before, after = whole[:at], whole[at + len(plain) :]
        if self.eos_id is not None and after[-1:] != [self.eos_id]:
            after.append(self.eos_id)
        return before, after

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return self.backend.decode(list(ids), skip_special_tokens=True)

    # -- chat ------------------------------------------------------------------------------

    def apply_chat_template(
        self, messages: Sequence[dict], add_generation_prompt: bool = True
    ) -> str:
        """The messages as one text, as the model was trained to read them.

        Keys that hold None count as absent. Raises ValueError when the folder has no chat template,
        or the template refuses, fails, or does not end.
        """
        if self._template is None:
            raise ValueError("the tokenizer has no chat template, expected one for messages")
        return self._template.render(
            messages=[{k: v for k, v in m.items() if v is not None} for m in messages],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **{name: text for name, text in self._named.items() if text is not None},
        )

    def encode_prompt(self, prompt: str) -> list[int]:
        """Ids of one user message, up to where the assistant's answer begins."""
        message = {"role": "user", "content": prompt}
        return self.encode(self.apply_chat_template([message], add_generation_prompt=True))


def _token_text(name: str, value: object) -> str | None:
    """The text of a special token, which a config names as such or in an object."""
    text = value.get("content") if isinstance(value, dict) else value
    if text is not None and not isinstance(text, str):
        raise ValueError(
            f"{name} is {reprlib.repr(value)}, expected a text or an object with its content"
        )
    return text


def _named_tokens(config: dict) -> dict[str, object]:
    """NAMED_TOKENS as the config has them, and texts under other names that end in "_token"."""
    own = {k: v for k, v in config.items() if k.endswith("_token") and isinstance(v, str)}
    return {**{name: config.get(name) for name in NAMED_TOKENS}, **own}


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    """tokenizer.json, set to encode whole texts: a file may ask for them to be cut or filled up."""
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:  # tokenizers raises bare Exception, or a PanicException
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise ValueError(f"{path} can't be read as a tokenizer: {one_line(error)}") from None
    backend.no_truncation()
    backend.no_padding()
    return backend


def _read_template(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from None


def complete(backend: tokenizers.Tokenizer, config: dict) -> None:
    """Give the tokenizer the tokens that its tokenizer_config.json names and it does not mark.

    As transformers does: text is cut at added_tokens_decoder's tokens, then at the named ones,
    then at the extra ones; those that the vocabulary lacks come behind it. Raises ValueError for a
    token that is none, or would get another id than the file says.
    """
    present = {str(t): repr(t) for t in backend.get_added_tokens_decoder().values()}
    numbered = _numbered_tokens(config.get("added_tokens_decoder"))
    tokens = [token for _, token in sorted(numbered.items())]
    adding = {token.content: token for token in tokens if present.get(str(token)) != repr(token)}
    known, written = present.keys() | adding.keys(), []
    for name, value in [*_named_tokens(config).items(), *_extra_tokens(config)]:
        text = _token_text(name, value)
        if text and text not in known and value not in written:
            marks = {k: v for k, v in value.items() if k in MARKS} if text is not value else {}
            adding[text] = tokenizers.AddedToken(text, special=True, **marks)
            written.append(value)
    backend.add_tokens(list(adding.values()))
    for number, token in numbered.items():
        if backend.token_to_id(token.content) != number:
            raise ValueError(
                f"added_tokens_decoder has {token.content!r} as {number}, expected "
                f"{backend.token_to_id(token.content)}, as tokenizer.json has it"
            )


def _numbered_tokens(value: object) -> dict[int, tokenizers.AddedToken]:
    """The tokens of an added_tokens_decoder by their ids."""
    try:
        return {int(n): tokenizers.AddedToken(**token) for n, token in (value or {}).items()}
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"added_tokens_decoder is {reprlib.repr(value)}, expected ids and their tokens: "
            f"{one_line(error)}"
        ) from None


def _extra_tokens(config: dict) -> list[tuple[str, object]]:
    """The special tokens without a name of their own, each with the setting that lists it."""
    name = "extra_special_tokens" if config.get("extra_special_tokens") else OLD_EXTRA
    value = config.get(name) or []
    entries = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(entries, list):
        raise ValueError(f"{name} is {reprlib.repr(value)}, expected a list of tokens")
    return [(name, entry) for entry in entries]


def _require_unicode(text: str) -> None:
    """Raise ValueError for a text with half a character in it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"got a text with {text[error.start]!r} at character {error.start}, which is part of a "
            "character or a byte of another encoding; expected UTF-8"
        ) from None
