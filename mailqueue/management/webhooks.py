"""``queue webhook``: the calls that tell programs of accounts what became of their mail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError

from mailqueue import conditions, hookoperations
from mailqueue.hookoperations import HookError, HookFilter
from mailqueue.models import Hook, RetiredHook

_COMMON: Final = {"ids": "ids", "account": "account", "event": "event", "submitted": "submitted", "n": "max"}
_WAITING: Final = {**_COMMON, "nextattempt": "next_attempt"}
_RETIRED: Final = {**_COMMON, "lastactivity": "last_activity"}
_SORTS: Final = {"nextattempt": "next_attempt", "queued": "submitted", "lastactivity": "last_activity"}


class Webhooks:
    """The words after ``queue webhook``."""

    def __init__(self, parser: Any, command: BaseCommand) -> None:
        self._command = command  # which gets its output when it runs
        words = parser.add_subparsers(dest="webhook_word", required=True, metavar="WORD")
        listing = words.add_parser("list", help="List calls that wait, those that are due first at the end.")
        _add_conditions(listing, "nextattempt")
        _add_sorting(listing, "nextattempt")
        listing.set_defaults(run=self._list)
        scheduling = words.add_parser("schedule", help="Make calls later, or with --now from now.")
        _add_conditions(scheduling, "nextattempt")
        scheduling.add_argument("duration", metavar="DURATION", help="such as 30m or 1h30m; may be negative")
        scheduling.add_argument("--now", action="store_true", help="from now, not from when it was planned")
        scheduling.set_defaults(run=self._schedule)
        canceling = words.add_parser("cancel", help="Make calls no more.")
        _add_conditions(canceling, "nextattempt")
        canceling.set_defaults(run=self._cancel)
        for word in (scheduling, canceling):
            word.add_argument("--all", action="store_true", help="needed where no condition is given")
        self._add_printing(words, Hook)
        retired = words.add_parser("retired", help="Calls that are done with, answered or not.")
        retired_words = retired.add_subparsers(dest="retired_hook_word", required=True, metavar="WORD")
        history = retired_words.add_parser("list", help="List retired calls, the latest first.")
        _add_conditions(history, "lastactivity")
        _add_sorting(history, "lastactivity")
        history.set_defaults(run=self._list_retired)
        self._add_printing(retired_words, RetiredHook)
        again = retired_words.add_parser("requeue", help="Make a retired call again.")
        again.add_argument("id", type=int)
        again.add_argument("--json", action="store_true", help="for programs")
        again.set_defaults(run=self._requeue)

    def _add_printing(self, words: Any, model: type[Hook] | type[RetiredHook]) -> None:
        printing = words.add_parser("print", help="Print a call with what it says and its attempts, as JSON.")
        printing.add_argument("id", type=int)
        printing.set_defaults(run=lambda options: self._print_one(model, options["id"]))

    def _list(self, options: Mapping[str, Any]) -> None:
        wanted = _filter(options, _WAITING)
        self._print(wanted.waiting(), wanted, options)

    def _list_retired(self, options: Mapping[str, Any]) -> None:
        wanted = _filter(options, _RETIRED)
        self._print(wanted.retired(), wanted, options)

    def _print(self, query: Any, wanted: HookFilter, options: Mapping[str, Any]) -> None:
        size = wanted.max or conditions.PAGE
        found = conditions.page(query, _SORTS[options["sort"]], ascending=options["asc"], size=size)
        histories = hookoperations.histories(found)
        if options["json"]:
            self._command.stdout.write(
                json.dumps([hookoperations.to_json(hook, histories[hook.pk]) for hook in found], indent=2)
            )
            return
        if not found:
            self._command.stderr.write("no webhooks")
        for hook in found:
            self._command.stdout.write(_line(hook))
            if histories[hook.pk]:
                last = histories[hook.pk][-1]
                self._command.stdout.write(f"    last attempt: {last.error or f'answered {last.code}'}")

    def _print_one(self, model: type[Hook] | type[RetiredHook], pk: int) -> None:
        hook = model.objects.filter(pk=pk).select_related("account").first()
        if hook is None:
            raise CommandError(f"no {'retired ' if model is RetiredHook else ''}webhook {pk}")
        history = hookoperations.histories([hook])[pk]
        self._command.stdout.write(json.dumps(hookoperations.to_json(hook, history, payload=True), indent=2))

    def _schedule(self, options: Mapping[str, Any]) -> None:
        wait = conditions.wait("duration", options["duration"])
        self._changed(hookoperations.schedule(_chosen(options), wait, from_now=options["now"]), options)

    def _cancel(self, options: Mapping[str, Any]) -> None:
        self._changed(hookoperations.cancel(_chosen(options)), options)

    def _requeue(self, options: Mapping[str, Any]) -> None:
        try:
            hook_id = hookoperations.requeue(options["id"])
        except HookError as exc:
            raise CommandError(str(exc)) from exc
        self._command.stdout.write(json.dumps({"id": hook_id}) if options["json"] else f"webhook {hook_id} queued")

    def _changed(self, changed: conditions.Changed, options: Mapping[str, Any]) -> None:
        if options["json"]:
            self._command.stdout.write(json.dumps({"affected": changed.affected, "busy": list(changed.busy)}))
            return
        self._command.stdout.write(f"{changed.affected} webhooks changed")
        if changed.busy:
            self._command.stdout.write(f"being made right now, not changed: {', '.join(map(str, changed.busy))}")


def _add_conditions(parser: Any, time: str) -> None:
    parser.add_argument("--ids", default="", help="such as 12,15")
    parser.add_argument("--account", default="")
    parser.add_argument("--event", default="", metavar="EVENT", help=", ".join(hookoperations.EVENTS))
    parser.add_argument("--submitted", default="", metavar="<1h", help="before now plus 1h; >-30m: later than that")
    parser.add_argument(f"--{time}", default="", metavar="<1h")
    parser.add_argument("-n", default="", help="at most so many")
    parser.add_argument("--json", action="store_true", help="for programs")


def _add_sorting(parser: Any, default: str) -> None:
    parser.add_argument("--sort", choices=(default, "queued"), default=default)
    parser.add_argument("--asc", action="store_true", help="the earliest first")


def _filter(options: Mapping[str, Any], named: Mapping[str, str]) -> HookFilter:
    """Raises BadFilter."""
    return HookFilter.parse({condition: options[name] for name, condition in named.items()})


def _chosen(options: Mapping[str, Any]) -> HookFilter:
    wanted = _filter(options, _WAITING)
    if wanted.is_empty and not options["all"]:
        raise CommandError("say which webhooks by a condition, or --all")
    return wanted


def _line(hook: Hook | RetiredHook) -> str:
    about = f"message {hook.queue_msg_id}" if hook.queue_msg_id else hook.message_id or "a message"
    if isinstance(hook, RetiredHook):
        state = "answered" if hook.success else "failed"
        if hook.superseded_by_id:
            state = f"superseded by {hook.superseded_by_id}"
    else:
        state = f"next attempt {hook.next_attempt:%Y-%m-%d %H:%M:%S}"
    return f"{hook.pk}: {hook.event} of {about}, account {hook.account.name}, {hook.attempts} attempts, {state}"
