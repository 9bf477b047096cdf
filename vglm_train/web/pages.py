"""The conversations of all pages that are open, as many as there is room for."""

import asyncio
import secrets
import time
from collections import OrderedDict

from vglm_train.chat.model import ChatModel
from vglm_train.web.conversation import Conversation, Shown

CAPACITY = 256  # conversations; with PICTURES each, less than 1 GiB
IDLE = 3600.0  # seconds after which one that nobody uses ends
FRESH = 60.0  # seconds in which one that was just opened counts as used
LEFT = 120.0  # seconds after which one ends whose page is closed: a phone that slept comes back


class Pages:
    """Conversations by Gradio's name of the page's session. The one unused for longest makes room, empty ones first."""

    def __init__(self, model: ChatModel, capacity: int = CAPACITY) -> None:
        self.model, self.capacity = model, capacity
        self._reading = asyncio.Semaphore(2)
        self._open: OrderedDict[str, Conversation] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def writing(self) -> bool:
        """Whether an answer is being written."""
        return any(conversation.writing for conversation in self._open.values())

    def begin(self, session: str) -> Conversation:
        """A new conversation."""
        self.end(session)
        self.sweep()
        while len(self._open) >= self.capacity:
            self.end(min(self._open, key=self._worth))
        self._open[session] = Conversation(self.model, self._reading)
        return self._open[session]

    def _worth(self, session: str) -> tuple[bool, bool]:
        """What goes first is smallest. Of equals `min` takes the first, which was unused for longest."""
        conversation = self._open[session]
        opened = time.monotonic() - conversation.seen < FRESH
        return conversation.writing, opened or not conversation.empty

    def find(self, session: str) -> Conversation | None:
        """The conversation of a page; None if it has ended."""
        conversation = self._open.get(session)
        if conversation is not None:
            conversation.seen, conversation.left = time.monotonic(), None
            self._open.move_to_end(session)
        return conversation

    def of_secret(self, secret: str) -> Conversation | None:
        """The conversation that pictures are sent to under this secret."""
        for session, conversation in self._open.items():
            if secrets.compare_digest(conversation.secret.encode(), secret.encode()):
                return self.find(session)
        return None

    def picture(self, name: str) -> Shown | None:
        """A picture of any conversation: its name is a secret."""
        found = (conversation.find(name) for conversation in self._open.values())
        return next((picture for picture in found if picture is not None), None)

    def leave(self, session: str) -> None:
        """A page was closed: its answer ends now, its conversation in LEFT seconds."""
        conversation = self._open.get(session)
        if conversation is not None:
            conversation.stop()
            conversation.left = time.monotonic()

    def end(self, session: str) -> None:
        """Forget a conversation."""
        conversation = self._open.pop(session, None)
        if conversation is not None:
            conversation.clear()

    def sweep(self) -> None:
        """End the conversations that nobody uses any more."""
        now = time.monotonic()
        for session, conversation in list(self._open.items()):
            closed = conversation.left is not None and now - conversation.left > LEFT
            if closed or (now - conversation.seen > IDLE and not conversation.writing):
                self.end(session)
