"""Text tokenizers: a byte-level BPE trained here, or a given tokenizer.json."""

import hashlib
import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import tokenizers

from rasterloom.recipe.tokenize import Tokenize
from rasterloom.schema import Profile
from rasterloom.tokenize.grown_vocabulary import grown_profile, is_grown
from rasterloom.tokenize.profiles import has_own_layout, profile_of
from rasterloom.tokenize.prompt_templates import t2i_prompt
from rasterloom.tokenize.token_names import names_of, profile_from_names
from rasterloom.utils.random_streams import stream_digest

BYTES = 256  # the vocabulary of a byte-level BPE before its first merge
MOST_CAPTIONS = 1_000_000  # more than this teach a BPE nothing new

LONGEST_PIECE = 1000  # bytes of a word that a BPE is trained on: a sentence in a script without spaces


class TextEncoder(Protocol):
    """Turns text into token ids of a profile, and back."""

    @property
    def digest(self) -> str:
        """Hex digest of all that decides which ids a text gets."""
        ...

    @property
    def ids(self) -> Sequence[int]:
        """Ids that stand for text, ascending: no special tokens."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        ...


class JsonText:
    """The tokenizer of a tokenizer.json, its ids moved up by ``first_id``.

    Special tokens in a text are not recognised: a caption that says ``<eoss>`` is text like any other.

    Args:
        tokenizer_json: contents of the file.
        first_id: ``profile.text0`` for a BPE trained here, 0 for a tokenizer with ids of its own.

    Raises:
        ValueError: the contents are no tokenizer.
    """

    def __init__(self, tokenizer_json: str, first_id: int = 0) -> None:
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"not a tokenizer.json: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self.tokenizer_json = tokenizer_json
        self.first_id = first_id

    @property
    def digest(self) -> str:
        data = f"{self.first_id}:{self.tokenizer_json}".encode()
        return hashlib.blake2b(data, digest_size=16, person=b"rasterloom.text").hexdigest()

    @cached_property
    def vocabulary(self) -> str:
        """Digest of which ids mean which text, however the file is written. Special tokens do not count."""
        added = {token.content for token in self._tokenizer.get_added_tokens_decoder().values()}
        known = self._tokenizer.get_vocab(with_added_tokens=False).items()
        pairs = sorted((self.first_id + i, token) for token, i in known if token not in added)
        return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:20]

    @property
    def size(self) -> int:
        """Number of ids, were they to start at 0."""
        return 1 + max(self._tokenizer.get_vocab().values(), default=-1)

    @property
    def ids(self) -> Sequence[int]:
        added: dict[int, Any] = self._tokenizer.get_added_tokens_decoder()
        own = {i for i in self._tokenizer.get_vocab().values() if i not in added or not added[i].special}
        return [self.first_id + i for i in sorted(own)]

    def encode(self, text: str) -> list[int]:
        try:
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):
            raise ValueError(f"{text!r} is not text that can be written in UTF-8") from None
        return [self.first_id + i for i in encoding.ids]

    def decode(self, ids: Sequence[int]) -> str:
        own = [int(i) - self.first_id for i in ids]
        return str(self._tokenizer.decode(own, skip_special_tokens=False))

    def __reduce__(self) -> tuple[type["JsonText"], tuple[str, int]]:
        return JsonText, (self.tokenizer_json, self.first_id)


def train_text(captions: Iterable[str], size: int) -> str:
    """Train a byte-level BPE on captions, and return its tokenizer.json.

    The text-to-image prompt is trained on along with every caption, so that it is short. The result
    depends on the captions alone, not on their order; of very many, those of the lowest digest are used.

    Args:
        captions: texts; repeated ones weigh more.
        size: number of ids; the first 256 are the bytes, so any text can be encoded.

    Raises:
        ValueError: ``size`` is below 256.
    """
    if size < BYTES:
        raise ValueError(f"a byte-level BPE has at least {BYTES} ids, not {size}")
    sample = heapq.nsmallest(MOST_CAPTIONS, captions, key=_caption_order)
    tokenizer: Any = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = _training_pieces()
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_prompts(sample), trainer)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return str(tokenizer.to_str())


def _training_pieces() -> Any:
    """Pre-tokenizer of ByteLevel's pieces, cut at `LONGEST_PIECE` bytes.

    The time of training grows with the square of a piece, so one unbroken run of letters would hold it up.
    """
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    longest = tokenizers.Regex(f".{{1,{LONGEST_PIECE}}}")  # of characters that stand for a byte each
    return tokenizers.pre_tokenizers.Sequence(
        [byte_level, tokenizers.pre_tokenizers.Split(longest, "isolated")]
    )


def text_of(config: Tokenize, tokenizer_json: str) -> tuple[JsonText, Profile]:
    """Return a recipe's text encoder, and its token ids.

    Args:
        config: of which ``codec``, ``text`` and ``text_vocab`` are read.
        tokenizer_json: contents of the file ``config.text``, or, where that is None, of a BPE of
            ``config.text_vocab`` ids by ``train_text``. For chameleon and movq, the user's file says what
            ids the special tokens have too, and so does one that was grown (`grown_vocabulary`); for other
            codecs, its ids are moved behind those of the images.

    Raises:
        ValueError: no tokenizer.json, one that lacks tokens of the codec, or text that does not fit.
    """
    if config.text is None:
        profile = profile_of(config.codec, config.text_vocab)
        return JsonText(tokenizer_json, profile.text0), profile
    try:
        if is_grown(tokenizer_json):
            return JsonText(tokenizer_json), grown_profile(tokenizer_json, config.codec)
        if has_own_layout(config.codec):
            text = JsonText(tokenizer_json, profile_of(config.codec).text0)
            return text, profile_of(config.codec, text.size)
        text = JsonText(tokenizer_json)
        return text, profile_from_names(names_of(tokenizer_json), profile_of(config.codec), where="it")
    except ValueError as error:
        raise ValueError(f"cannot use the tokenizer {config.text}: {error}") from None


def _caption_order(caption: str) -> tuple[bytes, str]:
    return stream_digest("captions", key=caption), caption


def _prompts(captions: Iterable[str]) -> Iterator[str]:
    """Yield each caption as the model reads it, without the size. The size's digits stay single tokens."""
    before, after = t2i_prompt(0, 0, "\0").split("0x0")
    for caption in captions:
        yield before
        yield after.replace("\0", caption)
