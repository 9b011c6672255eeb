"""Guarantees that hold for every distribution: bounds on risks of a compressed model from held-out examples."""

from foldflat.certify.bounds import (
    bernstein_upper_bound,
    betting_p_value,
    betting_upper_bound,
    binomial_lower_bound,
    binomial_p_value,
    binomial_upper_bound,
)
from foldflat.certify.curtailment import early_verdict
from foldflat.certify.ledger import Ledger, Spent, example_hash
from foldflat.certify.paired import paired_p_value, paired_upper_bound
from foldflat.certify.risks import (
    Risk,
    accuracy_drop,
    cosine_error,
    disagreement,
    loss_increase,
    neighbours_lost,
    score_drop,
)
from foldflat.certify.search import Certification, Tested, certify, examples_needed, foreseen_p_value
from foldflat.certify.selection import TestGraph, bonferroni_graph, fixed_sequence, sequences_graph

__all__ = [
    "Certification",
    "Ledger",
    "Risk",
    "Spent",
    "TestGraph",
    "Tested",
    "accuracy_drop",
    "bernstein_upper_bound",
    "betting_p_value",
    "betting_upper_bound",
    "binomial_lower_bound",
    "binomial_p_value",
    "binomial_upper_bound",
    "bonferroni_graph",
    "certify",
    "cosine_error",
    "disagreement",
    "early_verdict",
    "example_hash",
    "examples_needed",
    "fixed_sequence",
    "foreseen_p_value",
    "loss_increase",
    "neighbours_lost",
    "paired_p_value",
    "paired_upper_bound",
    "score_drop",
    "sequences_graph",
]
