"""What a fault did, counted."""

import os
import shutil
from dataclasses import dataclass, field


@dataclass
class Tally:
    """tried: times that the fault was inflicted. survived: of these, that ended as promised. lost, doubled: results.
    corrupt: files that were wrong and not noticed. notes: what is worth knowing of it; failures: what broke its promise."""

    fault: str
    tried: int = 0
    survived: int = 0
    lost: int = 0
    doubled: int = 0
    corrupt: int = 0
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def count(self, failure: str = "") -> None:
        """One more that was tried, and how it broke its promise if it did."""
        self.tried += 1
        if failure:
            self.failures.append(failure)
        else:
            self.survived += 1

    @property
    def held(self) -> bool:
        return self.tried == self.survived and not (self.lost or self.doubled or self.corrupt)


def can_mount() -> bool:
    """Whether disks of any size can be had."""
    return os.geteuid() == 0 and shutil.which("mount") is not None
