"""How far a network is from the one that it learns from."""

from torch import Tensor
from torch.nn import functional

__all__ = ["distillation_loss"]


def distillation_loss(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Return the distance of logits (n, labels) from a teacher's, a mean over the batch.

    Of classes T^2 KL(softmax(target / T) || softmax(logits / T)) (Hinton et al. 2015); of a regression, which has one
    label, the squared difference.
    """
    if logits.shape[1] == 1:
        return functional.mse_loss(logits, target)
    own, theirs = (functional.log_softmax(values / temperature, dim=1) for values in (logits, target))
    return functional.kl_div(own, theirs, reduction="batchmean", log_target=True) * temperature**2
