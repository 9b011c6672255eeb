"""The demonstration: a small classifier trained here, its table compressed every way, compared, saved, reloaded."""

from foldflat.demo.settings import DemoSettings
from foldflat.demo.walkthrough import run_demo

__all__ = ["DemoSettings", "run_demo"]
