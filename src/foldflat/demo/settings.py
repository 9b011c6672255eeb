"""What decides the demo's figures, apart from the machine."""

from dataclasses import dataclass, field

from foldflat.demo.corpus import CorpusSettings
from foldflat.errors import RecipeError

__all__ = ["DemoSettings"]


@dataclass(frozen=True)
class DemoSettings:
    """Hold the settings of the demo; the defaults are those that `foldflat demo` runs with.

    `vocabulary` bounds the tokenizer, `max_length` is in tokens; `dim` to `layers` describe the DistilBERT;
    `window` tokens to each side and `table_std` the start of its word table (see `cooccurrence`).
    """

    corpus: CorpusSettings = field(default_factory=CorpusSettings)
    vocabulary: int = 10_000
    max_length: int = 96
    dim: int = 64
    hidden_dim: int = 256
    layers: int = 1
    heads: int = 4
    window: int = 4
    table_std: float = 0.12
    initializer_range: float = 0.06
    epochs: float = 4.0
    learning_rate: float = 2e-3
    finetune_epochs: float = 1.0
    finetune_learning_rate: float = 5e-4
    batch_size: int = 32
    keep_ratios: tuple[float, ...] = (0.6, 0.3)

    def __post_init__(self) -> None:
        """Raise RecipeError where there is nothing to save in the end."""
        if not self.keep_ratios:
            raise RecipeError("`keep_ratios` is empty\nhint: at least one, such as 0.6")
