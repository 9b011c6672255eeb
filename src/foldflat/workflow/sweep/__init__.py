"""Sweeps: every cell of a grid computed once, whatever interrupts it; needs `pip install "foldflat[hf,eval]"`."""

from foldflat.workflow.sweep.grid import Grid, grid_of_options, read_grid
from foldflat.workflow.sweep.running import SweepResult, run_sweep

__all__ = ["Grid", "SweepResult", "grid_of_options", "read_grid", "run_sweep"]
