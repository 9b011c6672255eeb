"""Convolutional networks with fewer filters: sensitivities, importance sampling, budgets for every layer."""

from foldflat.filters.plan import FilterPlan
from foldflat.filters.recipe import FilterRecipe

__all__ = ["FilterPlan", "FilterRecipe"]
