"""How long a run is, once the number of samples is known. Everything is counted in samples."""

from dataclasses import dataclass
from typing import Self

from vglm_train.config.check import split
from vglm_train.config.run import Config


@dataclass(frozen=True, slots=True)
class Plan:
    epoch_samples: int
    total_samples: int  # a whole number of steps
    warmup_samples: int
    global_batch: int
    micro_batch: int
    accumulation: int

    @classmethod
    def of(cls, config: Config, epoch_samples: int, world: int) -> Self:
        """Resolve lengths; a run ends with the last whole step."""
        batch = config.data.global_batch
        cut = split(config, world)
        total = config.run.length.samples_of(epoch_samples, batch)
        return cls(
            epoch_samples=epoch_samples,
            total_samples=max(1, total // batch) * batch,
            warmup_samples=config.optim.warmup.samples_of(epoch_samples, batch),
            global_batch=batch,
            micro_batch=cut.micro,
            accumulation=cut.accumulation,
        )

    @property
    def steps(self) -> int:
        return self.total_samples // self.global_batch
