"""One thread, and the shapes in the annotations checked at every call."""

import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)
install_import_hook(["architectures", "tasks", "lab"], "typecheck.typechecked")
