"""Check the names that users import: all there, all documented, none hidden behind another."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from types import ModuleType

import foldflat

OPTIONAL = (
    "accelerate",
    "datasets",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "PIL",
    "pyarrow",
    "ray",
    "sentence_transformers",
    "tokenizers",
    "transformers",
)


def test_all_lists_exactly_what_can_be_imported() -> None:
    """`__all__` holds each public name once and nothing else; submodules and dunder names stay apart."""
    listed = [name for name in foldflat.__all__ if not name.startswith("__")]
    assert len(listed) == len(set(listed))
    modules = {name for name, value in vars(foldflat).items() if isinstance(value, ModuleType)}
    importable = {name for name in vars(foldflat) if not name.startswith("_")}
    assert set(listed) - modules == importable - modules


def test_every_public_name_has_a_docstring_of_its_own() -> None:
    """Neither missing, nor inherited, nor the signature that dataclasses write when there is none."""
    for name in foldflat.__all__:
        value = getattr(foldflat, name)
        if name.startswith("__") or not callable(value):
            continue
        documentation = value.__doc__ or ""
        assert documentation.strip(), name
        assert not documentation.startswith(f"{name}("), f"{name}: written by dataclass"
        for member, function in inspect.getmembers(value, inspect.isfunction):
            if not member.startswith("_") and function.__module__.startswith("foldflat"):
                assert inspect.getdoc(function), f"{name}.{member}"


def test_no_public_name_hides_a_module() -> None:
    """After everything is imported, each package's attribute of a submodule's name is that submodule."""
    modules = [foldflat, *map(importlib.import_module, _submodules())]
    for module in modules[1:]:
        parent, _, name = module.__name__.rpartition(".")
        assert getattr(sys.modules[parent], name) is module, f"{parent}.{name} is not the module"


def test_importing_foldflat_needs_no_optional_dependency() -> None:
    """A new process in which none of the extras can be imported still imports every public name."""
    blocked = "\n".join(f"sys.modules[{name!r}] = None" for name in OPTIONAL)
    code = f"import sys\n{blocked}\nfrom foldflat import *\nimport foldflat.cli"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _submodules() -> list[str]:
    found = pkgutil.walk_packages(foldflat.__path__, prefix="foldflat.")
    return [module.name for module in found if not module.name.endswith("__main__")]
