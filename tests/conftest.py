"""One thread, and the shapes in the annotations checked at every call."""

import os
import pkgutil
from importlib import import_module

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is there

import pytest
import torch
from jaxtyping import install_import_hook

from architectures.ops import kernels

torch.set_num_threads(1)
for module in pkgutil.iter_modules(kernels.__path__, f"{kernels.__name__}."):  # a compiler reads these, before the hook
    import_module(module.name)
install_import_hook(["architectures", "tasks", "lab"], "typecheck.typechecked")


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory):
    """Tests neither read nor leave data in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def threads_for_small_tensors(monkeypatch):
    """What tests give to several threads is shared among them, however little it is."""
    from architectures.ops import native

    monkeypatch.setattr(native, "FEW", 0)


@pytest.fixture(autouse=True)
def no_plug_ins_left_behind(monkeypatch):
    """Files that a test makes known are forgotten after it."""
    from lab import plugins  # after the hook above

    monkeypatch.setattr(plugins, "_files", {kind: dict(known) for kind, known in plugins._files.items()})
    plugins.load.cache_clear()
