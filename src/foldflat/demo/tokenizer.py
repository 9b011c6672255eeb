"""A small WordPiece tokenizer, trained on the demo's training text only."""

from collections.abc import Sequence
from typing import Any

from foldflat.evaluate.optional import require

__all__ = ["train_tokenizer"]

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def train_tokenizer(texts: Sequence[str], *, vocabulary: int, max_length: int) -> Any:
    """Train a lower-cased WordPiece of at most `vocabulary` pieces; return a fast transformers tokenizer.

    The same texts give the same pieces with the same numbers. Every piece is a special token, a character, or
    used in the first `max_length` tokens of a text, so that hardly a row of the word table stays untrained.
    """
    normalizer = require("tokenizers", "hf").normalizers.BertNormalizer(lowercase=True)
    fixed = [*_SPECIAL, *_characters(texts, normalizer)]
    trained = _trained_pieces(texts, normalizer, fixed, vocabulary)
    cut = _tokenizer(normalizer, trained)
    cut.enable_truncation(max_length - 2)  # [CLS] and [SEP] are added later
    used = {piece for encoding in cut.encode_batch(texts) for piece in encoding.tokens}
    kept = [piece for piece in trained if piece in used or piece in fixed]
    return _for_transformers(_tokenizer(normalizer, kept), max_length)


def _characters(texts: Sequence[str], normalizer: Any) -> list[str]:
    found = sorted(set("".join(normalizer.normalize_str(text) for text in texts)))
    characters = [character for character in found if not character.isspace()]
    return [*characters, *(f"##{character}" for character in characters)]


def _trained_pieces(texts: Sequence[str], normalizer: Any, fixed: list[str], vocabulary: int) -> list[str]:
    tokenizer = _tokenizer(normalizer, _SPECIAL)
    # The trainer numbers characters as its hash map yields them, and breaks ties between merges by these
    # numbers. Named in advance, they are the same in every run.
    trainer = require("tokenizers", "hf").trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=fixed, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    numbers: dict[str, int] = tokenizer.get_vocab()
    return sorted(numbers, key=numbers.__getitem__)


def _tokenizer(normalizer: Any, pieces: Sequence[str]) -> Any:
    tokenizers = require("tokenizers", "hf")
    model = tokenizers.models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _for_transformers(tokenizer: Any, max_length: int) -> Any:
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = require("tokenizers", "hf").processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    return require("transformers", "hf").PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
