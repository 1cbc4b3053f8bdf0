"""A checkpoint in shards: a folder in torch's distributed format (DCP), of tensors only, and beside them what else a run needs.

Every rank writes its share of every tensor; any number of ranks reads them. torch unpickles the folder's `.metadata` as it is,
which could execute anything; here nothing but the classes that describe tensors is let through.
"""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

REST = "rest.pt"
_DESCRIBES = {
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "torch": {"Size", "float16", "bfloat16", "float32", "float64", "complex64", "uint8", "int32", "int64", "bool"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "Metadata", "StorageMeta", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata", "MetadataIndex",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.serialization": {"_get_layout"},
}  # fmt: skip


def write(folder: Path, tensors: dict[str, Any]) -> None:
    """Every rank its share of nested dictionaries of tensors. All ranks must call it."""
    save(tensors, storage_writer=FileSystemWriter(folder, sync_files=True))


def write_rest(folder: Path, rest: dict[str, Any]) -> None:
    """What is no tensor, or not shared: one rank's."""
    torch.save(rest, folder / REST)


def read_into(folder: Path, tensors: dict[str, Any]) -> dict[str, Any]:
    """Fill tensors that may be sharded otherwise than those that were written; the rest. All ranks must call it."""
    load(tensors, storage_reader=_Reader(folder))
    return torch.load(folder / REST, map_location="cpu", weights_only=True)


def read(folder: Path) -> dict[str, Any]:
    """The rest and, whole and on the CPU, the tensors, by the path of their names."""
    found: dict[str, Any] = {}
    described = _Reader(folder).read_metadata().state_dict_metadata
    flat = {name: torch.empty(tensor.size, dtype=tensor.properties.dtype) for name, tensor in _tensors(described).items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # that one process reads it is meant so
        load(flat, storage_reader=_Reader(folder), no_dist=True)
    for name, tensor in flat.items():
        kind, _, name = name.partition(".")
        found.setdefault(kind, {})[name] = tensor
    return found | torch.load(folder / REST, map_location="cpu", weights_only=True)


def _tensors(described: dict[str, Any]) -> dict[str, TensorStorageMetadata]:
    if wrong := [name for name, each in described.items() if not isinstance(each, TensorStorageMetadata)]:
        raise pickle.UnpicklingError(f"{wrong[0]} is no tensor")
    return described


class _Reader(FileSystemReader):
    """torch's, but its description of the tensors executes nothing and describes nothing else."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with open(Path(self.path) / ".metadata", "rb") as file:
            metadata = _Unpickler(file).load()
        _tensors(metadata.state_dict_metadata)
        return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in _DESCRIBES.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which describes no tensor")
