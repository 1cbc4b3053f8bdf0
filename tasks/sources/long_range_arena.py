"""Published accuracies on the Long Range Arena's three tasks of real data."""

from typing import Literal

from tasks.task import Reference

LRA = "Tay et al., arXiv:2011.04006, Table 1"
SCORES: dict[str, tuple[float, float, float, str]] = {  # text, retrieval, image
    "Transformer": (0.6427, 0.5746, 0.4244, LRA),
    "local attention": (0.5298, 0.5339, 0.4146, LRA),
    "sparse Transformer": (0.6358, 0.5959, 0.4424, LRA),
    "Longformer": (0.6285, 0.5689, 0.4222, LRA),
    "Linformer": (0.5394, 0.5227, 0.3856, LRA),
    "Reformer": (0.5610, 0.5340, 0.3807, LRA),
    "Sinkhorn Transformer": (0.6120, 0.5383, 0.4123, LRA),
    "Synthesizer": (0.6168, 0.5467, 0.4161, LRA),
    "BigBird": (0.6402, 0.5929, 0.4083, LRA),
    "linear Transformer": (0.6590, 0.5309, 0.4234, LRA),
    "Performer": (0.6540, 0.5382, 0.4277, LRA),
    "S4": (0.8682, 0.9090, 0.8865, "Gu et al., arXiv:2206.12037, table of the Long Range Arena"),
    "S4D": (0.8618, 0.8946, 0.8819, "Gu et al., arXiv:2206.11893, table of the Long Range Arena"),
    "S5": (0.8931, 0.9140, 0.8800, "Smith et al., arXiv:2208.04933, table of the Long Range Arena"),
    "Mega": (0.9043, 0.9125, 0.9044, "Ma et al., arXiv:2209.10655, table of the Long Range Arena"),
}


def published(task: Literal["text", "retrieval", "image"], form: str) -> list[Reference]:
    """The scores on one of them, reached on the settings `form` of a task here."""
    which = ("text", "retrieval", "image").index(task)
    return [Reference(name, scores[which], form, source) for name, (*scores, source) in SCORES.items()]
