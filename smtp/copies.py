"""The copies of a message that its recipients ask for: one each, and one for each member of an alias (smtp.md 7.4).

copies, covered = plan(recipients, author)
verdicts = agreed(verdicts of the copies of one recipient)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from accounts.addresses import Resolved, ResolvedAlias, canonical_address, hosted_domain
from junk.analysis import AUTH_REQUIRED, Verdict
from protocols.names import Address, IPDomain
from protocols.smtpsyntax import Path

from .verification import Verification


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a message for one account. ``path`` is the recipient, ``delivered_to`` may be a member of it."""

    path: Path
    delivered_to: Path
    resolved: Resolved


@dataclass(frozen=True, slots=True)
class Plan:
    """Who gets a copy. ``covered``: recipients that need none of their own, and those who get what is theirs."""

    copies: dict[Path, tuple[Copy, ...]]
    covered: dict[Path, tuple[Path, ...]]


def may_post(alias: ResolvedAlias, author: str, verification: Verification) -> bool:
    """Whether a message by this author, a canonical address or "", may go to an alias.

    One that is forged is refused like one of a stranger: whoever tries addresses does not learn who is a member.
    """
    if any(author == member.resolved.canonical for member in alias.members):
        return alias.post_public or not verification.policy_refusal()
    return alias.allow_msg_from if author == alias.canonical else alias.post_public


def canonical_author(author: Address | None) -> str:
    """The canonical form of a From address, "" for one that is not hosted here. Uses the database."""
    domain = hosted_domain(author.domain.ascii) if author is not None else None
    return canonical_address(author.localpart, domain) if author is not None and domain is not None else ""


def plan(recipients: Sequence[tuple[Path, Resolved | ResolvedAlias]], author: str) -> Plan:
    """The copies for the recipients of a transaction. ``author``: as `canonical_author` gives it.

    A member gets no copy by an alias if it is a recipient itself, if it has one by another alias, or if it wrote the
    message; but where that would leave nobody who gets it, its author does.
    """
    served: dict[str, Path] = {}  # by canonical address, whose recipient that is
    copies: dict[Path, tuple[Copy, ...]] = {}
    covered: dict[Path, tuple[Path, ...]] = {}
    for path, resolved in recipients:
        if isinstance(resolved, Resolved):
            copies[path] = (Copy(path, path, resolved),)
            served.setdefault(resolved.canonical, path)
    for path, resolved in recipients:
        if isinstance(resolved, Resolved):
            continue
        members = {member.resolved.canonical: member for member in resolved.members}
        elsewhere = {served[canonical]: None for canonical in members if canonical in served}
        wanting = [member for canonical, member in members.items() if canonical not in served]
        others = [member for member in wanting if member.resolved.canonical != author]
        if elsewhere and not others:
            covered[path] = tuple(elsewhere)
            continue
        chosen = others or wanting
        copies[path] = tuple(
            Copy(path, Path(member.address.localpart, IPDomain(domain=member.address.domain)), member.resolved)
            for member in chosen
        )
        served.update((member.resolved.canonical, path) for member in chosen)
    return Plan(copies, covered)


def agreed(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts of an alias's members on one message: what one of them accepts, all get.

    The reason is that of the first who accepts; what was found for a member is told to it alone. Not overruled is a
    member who wants no messages like this, or has them put where rejects are.
    """
    accepting = first(verdicts)
    if not accepting.accept:
        return list(verdicts)
    return [_overruled(verdict, accepting) for verdict in verdicts]


def first(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict that the sender hears of: the first that accepts, else the first."""
    return next((verdict for verdict in verdicts if verdict.accept), verdicts[0])


def _overruled(verdict: Verdict, accepting: Verdict) -> Verdict:
    if verdict.accept:
        return replace(verdict, reason=accepting.reason)
    if verdict.into_instead or verdict.reason == AUTH_REQUIRED:
        return verdict
    found = (*verdict.explanation, "another member of the alias accepts it")
    return replace(verdict, accept=True, reason=accepting.reason, explanation=found)
