"""SafeInMemoryStorage: the newest dialogues at hand, bounded in number and in bytes.

A cache in front of the journal: what it evicts (unrated dialogues first, then the oldest) is
still in the journal, rateable, counted and exportable.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, overload
from uuid import UUID

from audiobot.domain import Conversation
from audiobot.storage.operations import (
    AddConversation,
    Operation,
    RateConversation,
    with_rating,
)

MAX_CONVERSATIONS: Final = 10_000
MAX_BYTES: Final = 64 << 20
MAX_EARLY: Final = 1_000
_OVERHEAD: Final = 1_200
"""Bytes that a record's objects take beside its text and vector, measured on CPython 3.11."""


class SafeInMemoryStorage:
    """Up to ``max_conversations`` dialogues, and at most about ``max_bytes`` bytes of them.

    Records are immutable, so what it hands out is as good as a copy.
    """

    def __init__(
        self, max_conversations: int = MAX_CONVERSATIONS, max_bytes: int = MAX_BYTES
    ) -> None:
        self.max_conversations = max_conversations
        self.max_bytes = max_bytes
        self.evictions = 0
        self._held: dict[UUID, Conversation] = {}
        self._unrated: dict[UUID, None] = {}
        self._ranks: dict[UUID, int] = {}
        self._early: OrderedDict[UUID, RateConversation] = OrderedDict()
        self._bytes = 0

    @property
    def conversations(self) -> Sequence[Conversation]:
        """The dialogues held, oldest arrival first."""
        return _Conversations(self._held)

    @property
    def embeddings(self) -> Mapping[UUID, bytes]:
        """The vectors of the dialogues held, by id: float32 little-endian bytes."""
        return _Embeddings(self._held)

    @property
    def bytes_held(self) -> int:
        """About how many bytes the dialogues held take."""
        return self._bytes

    def __contains__(self, log_id: object) -> bool:
        return log_id in self._held

    def get(self, log_id: UUID) -> Conversation | None:
        """The dialogue if it is held."""
        return self._held.get(log_id)

    def newest(self, most: int) -> list[Conversation]:
        """The last so many that arrived, the last first."""
        return [*islice(reversed(self._held.values()), most)]

    def rank(self, log_id: UUID) -> int:
        """The rank of the rating held; zero when there is none."""
        return self._ranks.get(log_id, 0)

    def early(self, log_id: UUID) -> RateConversation | None:
        """The newest rating of a dialogue that is not held, if it came lately."""
        return self._early.get(log_id)

    def apply(self, operation: Operation) -> None:
        """Follow a committed operation; repeats change nothing."""
        match operation:
            case AddConversation(conversation=conversation):
                if conversation.log_id not in self._held:
                    self.hold(conversation)
            case RateConversation():
                self._rate(operation)
            case _:
                pass  # knowledge and corrections are held by whoever answers from them

    def hold(self, conversation: Conversation, rank: int = 0) -> None:
        """Keep a dialogue at hand, evicting others if that takes it over a bound.

        ``rank`` is that of its rating.
        """
        log_id = conversation.log_id
        early = self._early.pop(log_id, None)
        if early is not None and early.rank > rank:
            conversation = with_rating(conversation, early)
            rank = early.rank
        self._held[log_id] = conversation
        self._ranks[log_id] = rank
        self._bytes += _weight(conversation)
        if conversation.rating is None:
            self._unrated[log_id] = None
        while len(self._held) > self.max_conversations or self._bytes > self.max_bytes:
            if not self._held:
                break
            self._evict(next(iter(self._unrated or self._held)))

    def _rate(self, operation: RateConversation) -> None:
        held = self._held.get(operation.log_id)
        rank = operation.rank
        if held is None:
            # Its dialogue may come after it: then the rating is here.
            known = self._early.get(operation.log_id)
            if known is None or rank > known.rank:
                self._early[operation.log_id] = operation
                self._early.move_to_end(operation.log_id)
            while len(self._early) > MAX_EARLY:
                self._early.popitem(last=False)
            return
        if rank <= self._ranks[operation.log_id]:
            return
        now_rated = with_rating(held, operation)
        self._held[operation.log_id] = now_rated
        self._ranks[operation.log_id] = rank
        self._unrated.pop(operation.log_id, None)
        self._bytes += _weight(now_rated) - _weight(held)

    def _evict(self, log_id: UUID) -> None:
        self._bytes -= _weight(self._held.pop(log_id))
        self._unrated.pop(log_id, None)
        self._ranks.pop(log_id, None)
        self.evictions += 1


def _weight(conversation: Conversation) -> int:
    words = len(conversation.user_message) + len(conversation.ai_response)
    words += len(conversation.feedback_text or "")
    vector = len(conversation.embedding.vector) if conversation.embedding else 0
    return _OVERHEAD + 2 * words + vector


class _Conversations(Sequence[Conversation]):
    def __init__(self, held: dict[UUID, Conversation]) -> None:
        self._held = held

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Conversation]:
        return iter(list(self._held.values()))

    @overload
    def __getitem__(self, index: int) -> Conversation: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Conversation]: ...
    def __getitem__(self, index: int | slice) -> Conversation | Sequence[Conversation]:
        if isinstance(index, slice):
            return list(self._held.values())[index]
        place = index + len(self._held) if index < 0 else index
        if not 0 <= place < len(self._held):
            raise IndexError(index)
        return next(islice(self._held.values(), place, None))


class _Embeddings(Mapping[UUID, bytes]):
    def __init__(self, held: dict[UUID, Conversation]) -> None:
        self._held = held

    def __getitem__(self, log_id: UUID) -> bytes:
        embedding = self._held[log_id].embedding
        if embedding is None:
            raise KeyError(log_id)
        return embedding.vector

    def __iter__(self) -> Iterator[UUID]:
        return (log_id for log_id, c in list(self._held.items()) if c.embedding is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)
