"""Settings for every test: no network, fixed threads, repeatable hypothesis, where the real data is."""

import gc
import os
import socket
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Read when huggingface_hub and tokenizers are imported, and inherited by the processes that tests start.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HOME=str(ROOT / ".cache" / "huggingface"),
    TOKENIZERS_PARALLELISM="false",
)
# tables are tiny: a second thread waits more than it computes
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis  # noqa: E402  (below the environment that imports read)
import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

hypothesis.settings.register_profile(
    "foldflat", derandomize=True, max_examples=20, deadline=None, database=None, print_blob=True
)
hypothesis.settings.load_profile("foldflat")


@pytest.fixture(autouse=True, scope="module")
def _spared_from_collection() -> None:
    """Spare the collector what the modules so far have imported: each end of training walks all objects for it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def project_root() -> Path:
    """Return the folder that holds pyproject.toml."""
    return ROOT


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Return the folder of real data and models, FOLDFLAT_DATA or ../shared; skip where it is absent."""
    path = (ROOT / os.environ.get("FOLDFLAT_DATA", "../shared")).resolve()
    if not path.is_dir():
        pytest.skip(f"no real data: {path} is not a folder; set FOLDFLAT_DATA to one that has it")
    return path


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Turn every attempt to leave this machine into an error."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0] if isinstance(address, tuple) else address
            if host not in ("127.0.0.1", "::1", "localhost"):
                raise RuntimeError(f"a test tried to reach {address}: tests have no network")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let xdist's groups hold: pytest-xdist 3.8 adds them to an attribute that pytest 9.2 no longer reads."""
    for item in items:
        grouped = vars(item).get("_nodeid")
        if grouped is not None and item.nodeid != grouped:
            item._id = type(item._id).parse(grouped)
