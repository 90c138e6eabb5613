"""Messages as threads, by the algorithms of IMAP's THREAD command (RFC 5256 section 3).

    forest = references([Threaded("a@x", (), "one", 1.0), Threaded("b@x", ("a@x",), "Re: one", 2.0)])
    forest.roots, forest.children      # [0], {0: [1]}
    forest.formatted([7, 9])           # b"(7 9)"

Messages are known by their position in what was given. All is done without recursion: how deep a thread is, is said by
those who write messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from protocols.message import thread_subject

DEPTH_LOOKED_AT: Final = 1000  # ancestors looked at for a loop; where there are more, a thread is cut


@dataclass(frozen=True, slots=True)
class Threaded:
    """What threads are made of: canonical ids (references oldest first), the whole subject, seconds of its date."""

    message_id: str
    references: tuple[str, ...]
    subject: str
    sent: float


@dataclass(slots=True)
class Forest:
    """Threads in order. A root that is not below ``messages`` stands for no message: it joins siblings."""

    messages: int
    roots: list[int] = field(default_factory=list)
    children: dict[int, list[int]] = field(default_factory=dict)

    def formatted(self, numbers: Sequence[int]) -> bytes:
        """As THREAD answers, with what each message is called."""
        out: list[bytes] = []
        for root in self.roots:
            waiting: list[int | bytes] = [b")", root, b"("]
            while waiting:
                next_ = waiting.pop()
                if isinstance(next_, bytes):
                    out.append(next_)
                    continue
                children = self.children.get(next_, ())
                if next_ < self.messages:
                    out.append(b"%d" % numbers[next_])
                    if children:
                        out.append(b" ")
                if len(children) == 1:
                    waiting.append(children[0])
                else:
                    for child in reversed(children):
                        waiting += (b")", child, b"(")
        return b"".join(out)


def ordered_subject(messages: Sequence[Threaded]) -> Forest:
    """ORDEREDSUBJECT: messages of one base subject are a thread, the one sent first its root."""
    forest = Forest(len(messages))
    by_subject: dict[str, list[int]] = {}
    for number in sorted(range(len(messages)), key=lambda number: (messages[number].sent, number)):
        by_subject.setdefault(thread_subject(messages[number].subject).base, []).append(number)
    for first, *others in by_subject.values():
        forest.roots.append(first)
        if others:
            forest.children[first] = others
    return forest


def references(messages: Sequence[Threaded]) -> Forest:
    """REFERENCES: by the ids that messages have and refer to, then by base subjects."""
    return _References(messages).forest()


class _References:
    """One run of the algorithm; its steps have the RFC's numbers. Nodes from ``count`` on stand for no message."""

    def __init__(self, messages: Sequence[Threaded]) -> None:
        self._messages = messages
        self._count = len(messages)
        self._parents: dict[int, int] = {}
        self._has_children: set[int] = set()
        self._children: dict[int, list[int]] = {}
        self._next = self._count  # the number of the next node without a message

    def forest(self) -> Forest:
        self._link()
        roots = self._pruned()
        self._sort_all(roots)
        roots = self._by_subject(roots)
        self._sort_all(roots)
        roots.sort(key=self._when)
        return Forest(self._count, roots, {node: kids for node, kids in self._children.items() if kids})

    def _new_node(self) -> int:
        self._next += 1
        return self._next - 1

    # Step 1: who refers to whom.

    def _link(self) -> None:
        nodes: dict[str, int] = {}  # by id; a node that was referred to gets its message later
        stands_for: dict[int, int] = {}  # message number of such a node
        for number, message in enumerate(self._messages):
            known = nodes.get(message.message_id) if message.message_id else None
            if known is None:
                known = number
                if message.message_id:
                    nodes[message.message_id] = number
            elif known < self._count or known in stands_for:
                known = number  # a second message with an id is one without
            else:
                stands_for[known] = number
            previous: int | None = None
            for reference in message.references:
                node = nodes.get(reference)
                if node is None:
                    node = nodes[reference] = self._new_node()
                if previous is not None and node not in self._parents and self._may_be_below(node, previous):
                    self._set_parent(node, previous)
                previous = node
            self._parents.pop(known, None)
            if previous is not None and self._may_be_below(known, previous):
                self._set_parent(known, previous)
        self._rename(stands_for)

    def _set_parent(self, node: int, parent: int) -> None:
        self._parents[node] = parent
        self._has_children.add(parent)

    def _may_be_below(self, node: int, parent: int) -> bool:
        """Whether no loop comes of it."""
        if node == parent:
            return False
        if node not in self._has_children:
            return True
        above: int | None = parent
        for _ in range(DEPTH_LOOKED_AT):
            if above is None:
                return True
            if above == node:
                return False
            above = self._parents.get(above)
        return False

    def _rename(self, stands_for: dict[int, int]) -> None:
        """Nodes that got their message are known by its number from now on; children in order of the messages."""
        names = [stands_for.get(node, node) for node in range(self._next)]
        links = sorted((names[node], names[parent]) for node, parent in self._parents.items())
        self._parents = dict(links)
        for node, parent in links:
            self._children.setdefault(parent, []).append(node)

    # Steps 2 and 3: roots, without nodes that nothing needs.

    def _pruned(self) -> list[int]:
        tops = [n for n in range(self._count) if n not in self._parents]
        tops += [n for n in self._children if n >= self._count and n not in self._parents]
        instead: dict[int, list[int]] = {}  # what stands in the place of a node
        for node in self._upwards(tops):
            kept: list[int] = []
            for child in self._children.get(node, ()):
                kept += instead.pop(child)
            self._children[node] = kept
            instead[node] = [node] if node < self._count else kept
        roots: list[int] = []
        for node in tops:
            promoted = instead[node]
            roots += promoted if len(promoted) <= 1 else [node]
        return roots

    def _upwards(self, roots: Sequence[int]) -> Iterator[int]:
        """All nodes of some threads, children before their parents."""
        waiting = list(roots)
        order: list[int] = []
        while waiting:
            node = waiting.pop()
            order.append(node)
            waiting += self._children.get(node, ())
        return reversed(order)

    # Steps 4 and 6: the order of siblings.

    def _sort_all(self, roots: Sequence[int]) -> None:
        for node in self._upwards(roots):
            children = self._children.get(node)
            if children and len(children) > 1:
                children.sort(key=self._when)

    def _when(self, node: int) -> tuple[float, int]:
        """When it was sent; a node without a message goes by its first child, whose place is known already."""
        if node >= self._count:
            node = self._children[node][0]
        return self._messages[node].sent, node

    # Step 5: threads of the same base subject are one.

    def _by_subject(self, roots: list[int]) -> list[int]:
        roots.sort(key=self._when)
        subjects = {root: thread_subject(self._first(root).subject) for root in roots}
        table: dict[str, int] = {}
        for root in roots:
            base = subjects[root].base
            if not base:
                continue
            other = table.setdefault(base, root)
            if other < self._count and (
                root >= self._count or (subjects[other].is_response and not subjects[root].is_response)
            ):
                table[base] = root
        kept: dict[int, None] = dict.fromkeys(roots)
        for root in roots:
            base = subjects[root].base
            if not base or table[base] == root:
                continue
            other = table[base]
            del kept[root]
            if other >= self._count:
                self._children[other] += self._children[root] if root >= self._count else [root]
            elif subjects[root].is_response and not subjects[other].is_response:
                self._children.setdefault(other, []).append(root)
            else:
                joined = self._new_node()
                self._children[joined] = [other, root]
                subjects[joined] = subjects[other]
                del kept[other]
                kept[joined] = None
                table[base] = joined
        return list(kept)

    def _first(self, node: int) -> Threaded:
        return self._messages[node if node < self._count else self._children[node][0]]
