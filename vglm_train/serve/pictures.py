"""The pictures of a request, as bytes that may be decoded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vglm_train.chat.intake import Intake
from vglm_train.errors import UserError
from vglm_train.serve.fetch import Fetcher

Read = Callable[["Source"], bytes]


class Source(NamedTuple):
    """A picture that is not read yet, and what holds it, for messages."""

    text: str
    where: str

    @property
    def scheme(self) -> str:
        """What stands before the colon of a URL; empty for base64, which has none."""
        head, colon, _ = self.text[:40].partition(":")
        return head.lower() if colon else ""


@dataclass(frozen=True, slots=True)
class Pictures:
    """How a server takes pictures: within the limits of `intake`, and by URL only if there is a `fetcher`."""

    intake: Intake = field(default_factory=Intake)
    fetcher: Fetcher | None = None

    async def fetch(self, sources: Sequence[Source], most: int) -> dict[str, bytes]:
        """What is at those of these that are web addresses, by URL: at most `most` bytes. UserError."""
        urls = {each.text: each.where for each in sources if each.scheme in ("http", "https")}
        if self.fetcher is None or not urls:
            return {}
        self.intake.check_count(len(sources))
        return dict(zip(urls, await self.fetcher.fetch(list(urls.items()), most), strict=True))

    def read(self, fetched: Mapping[str, bytes], source: Source) -> bytes:
        """The bytes of a picture: a data: URL, base64 alone, or one that was fetched. UserError for all else."""
        if source.text in fetched:
            return self.intake.check(fetched[source.text], source.where)
        if source.scheme == "data":
            return self.intake.read_data_url(source.text, source.where)
        if source.scheme in ("http", "https"):
            raise UserError(
                f"{source.where}: this server fetches no pictures; send the picture itself, as a data: URL in base64."
            )
        if source.scheme:
            raise UserError(f"{source.where}: must be a data: URL that holds the picture in base64.")
        return self.intake.read_base64(source.text, source.where)
