"""Small models, tables and tokenizers that behave like trained ones, made in milliseconds.

No parameter keeps the value that a constructor gives it: biases are not zero, scales are not one, and the
rows of an embedding lie near a few subspaces. So whatever is lost on the way to disk and back changes the
outputs.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "gpt2", "llama")
"""The model families that foldflat promises to handle; tests of models are parametrised over them."""

Head = Literal["lm", "classifier", "base"]

N_LABELS = 3
MAX_LENGTH = 64
EMBEDDING_SUBSPACES = 4


@dataclasses.dataclass(frozen=True)
class Family:
    """Hold what differs between families: how sizes are called, and which special tokens there are."""

    config: type[PreTrainedConfig]
    sizes: Callable[[int], dict[str, int]]
    causal: bool = False
    pad_token_id: int = 0


def planted_table(n: int, d: int, k: int, rank: int, noise: float = 0.05, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw rows near `k` random subspaces of dimension `rank`: a table whose best clustering is known.

    Coefficients are standard normal, `noise` is the standard deviation added to every entry; the labels are
    balanced and in random order. Returns the table (n, d) in float32 and the labels (n,) in int64.
    """
    generator = torch.Generator().manual_seed(seed)
    bases = torch.linalg.qr(torch.randn(k, d, rank, generator=generator)).Q.mT
    labels = torch.arange(n)[torch.randperm(n, generator=generator)] % k
    coefficients = torch.randn(n, 1, rank, generator=generator)
    rows = torch.bmm(coefficients, bases[labels]).squeeze(1)
    return rows + noise * torch.randn(n, d, generator=generator), labels


def tiny_config(family: str, *, tied: bool = True, vocabulary: int = 120, hidden: int = 32) -> PreTrainedConfig:
    """Return the configuration of a model of two layers; `tied` shares the input table with the head."""
    kind = _FAMILIES[family]
    pad = kind.pad_token_id
    return kind.config(
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        pad_token_id=pad,
        bos_token_id=_special_tokens(pad).index("[CLS]"),
        eos_token_id=_special_tokens(pad).index("[SEP]"),
        num_labels=N_LABELS,
        **kind.sizes(hidden),
    )


def tiny_model(
    family: str,
    *,
    tied: bool = True,
    head: Head = "lm",
    vocabulary: int = 120,
    hidden: int = 32,
    seed: int = 0,
) -> PreTrainedModel:
    """Return a model of `family` in eval mode, float32, with every parameter drawn from `seed` as if trained.

    `head`: "lm" (masked or causal, whichever the family is for), "classifier" (3 labels) or "base" (no head).
    """
    config = tiny_config(family, tied=tied, vocabulary=vocabulary, hidden=hidden)
    with torch.random.fork_rng(devices=[]):  # constructors draw from the global generator
        model = _auto_class(family, head).from_config(config)
    assert isinstance(model, PreTrainedModel)
    _draw_parameters(model, seed)
    return model.eval()


def tiny_inputs(model: PreTrainedModel, *, batch: int = 2, length: int = 9, seed: int = 0) -> dict[str, Tensor]:
    """Draw token ids for `model`, the second half of the last row being padding, with the attention mask."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(len(_special_tokens(0)), vocabulary, (batch, length), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[-1, length // 2 :] = 0
    return {
        "input_ids": torch.where(attention_mask.bool(), input_ids, model.config.pad_token_id),
        "attention_mask": attention_mask,
    }


def tiny_tokenizer(vocabulary_size: int = 120, *, pad_token_id: int = 0) -> PreTrainedTokenizerFast:
    """Return a lower-casing WordPiece tokenizer of exactly `vocabulary_size` (at least 57) tokens.

    Five special tokens, then every letter as word and as continuation, so that any word of a-z has a
    spelling, then invented words of two syllables and more.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = _vocabulary(vocabulary_size, pad_token_id)
    ids = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_LENGTH - 2,  # RoBERTa's positions start after the padding index
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )


def save_tiny_folder(
    path: str | Path,
    family: str,
    *,
    tied: bool = True,
    head: Head = "lm",
    vocabulary: int = 120,
    hidden: int = 32,
    seed: int = 0,
) -> PreTrainedModel:
    """Write a transformers folder (config, weights, tokenizer) to `path` and return its model."""
    model = tiny_model(family, tied=tied, head=head, vocabulary=vocabulary, hidden=hidden, seed=seed)
    model.save_pretrained(path)
    tiny_tokenizer(vocabulary, pad_token_id=model.config.pad_token_id).save_pretrained(path)
    return model


def _bert_sizes(hidden: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": MAX_LENGTH,
    }


def _distilbert_sizes(hidden: int) -> dict[str, int]:
    return {
        "dim": hidden,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 2 * hidden,
        "max_position_embeddings": MAX_LENGTH,
    }


def _gpt2_sizes(hidden: int) -> dict[str, int]:
    return {"n_embd": hidden, "n_layer": 2, "n_head": 2, "n_positions": MAX_LENGTH}


_FAMILIES = {
    "bert": Family(BertConfig, _bert_sizes),
    "distilbert": Family(DistilBertConfig, _distilbert_sizes),
    "roberta": Family(RobertaConfig, _bert_sizes, pad_token_id=1),
    "xlm-roberta": Family(XLMRobertaConfig, _bert_sizes, pad_token_id=1),
    "gpt2": Family(GPT2Config, _gpt2_sizes, causal=True),
    "llama": Family(LlamaConfig, _bert_sizes, causal=True),
}


def _auto_class(family: str, head: Head) -> Any:
    if head == "base":
        return AutoModel
    if head == "classifier":
        return AutoModelForSequenceClassification
    return AutoModelForCausalLM if _FAMILIES[family].causal else AutoModelForMaskedLM


@torch.no_grad()
def _draw_parameters(model: PreTrainedModel, seed: int) -> None:
    """Give every parameter a value that no constructor gives; tied ones are drawn once."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases and the scales of normalisations move off 0 and 1
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        else:
            scale = parameter.shape[-1] ** -0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    for index, table in enumerate(_tables(model)):
        n, d = table.shape
        rows, _ = planted_table(n, d, EMBEDDING_SUBSPACES, max(1, d // 4), noise=0.1, seed=2 * seed + index)
        table.copy_(0.3 * rows)


def _tables(model: PreTrainedModel) -> list[nn.Parameter]:
    """List the input table and, where it is not the same one, the head's."""
    output = model.get_output_embeddings()
    modules = [model.get_input_embeddings()] + ([] if output is None else [output])
    return list({id(module.weight): module.weight for module in modules}.values())


def _special_tokens(pad_token_id: int) -> list[str]:
    tokens = ["[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    tokens.insert(pad_token_id, "[PAD]")
    return tokens


def _vocabulary(size: int, pad_token_id: int) -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*_special_tokens(pad_token_id), *letters, *(f"##{letter}" for letter in letters)]
    if size < len(words):
        raise ValueError(f"vocabulary_size {size} is below the {len(words)} special tokens and letters")
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    words += [_spell(index, syllables) for index in range(len(syllables), len(syllables) + size - len(words))]
    return words


def _spell(number: int, syllables: list[str]) -> str:
    """Write `number` (at least the number of syllables) in base `len(syllables)`, a syllable to the digit."""
    digits = []
    while number:
        number, digit = divmod(number, len(syllables))
        digits.append(syllables[digit])
    return "".join(reversed(digits))


def image_rows(n: int, seed: int, side: int = 8) -> dict[str, list[Any]]:
    """Draw noisy images of which the brightest of red, green and blue is the label."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(seed)
    labels = [index % 3 for index in range(n)]
    pixels = draw.integers(0, 150, (n, side, side, 3), dtype=np.uint8)
    for label, image in zip(labels, pixels, strict=True):
        image[..., label] += 60
    return {"img": [Image.fromarray(image) for image in pixels], "label": labels}
