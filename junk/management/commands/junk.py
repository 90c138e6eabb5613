"""``junk``: trying the content filter on collections of messages, with a filter in a file of its own."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser

from junk.content import words_of
from junk.filterfile import BadFilterFile, FilterFile
from junk.scoring import Parameters
from junk.words import Grams
from protocols.message import crlf_blocks, ensure_part
from protocols.message.source import BytesSource

MESSAGE_MAX: Final = 100 << 20  # bytes; larger files are no messages that anybody gets
DEFAULT_FILE: Final = "junkfilter.sqlite3"


class Command(BaseCommand):
    help = "Train and try a junk filter on directories of messages (one in each file, such as a Maildir). The filters of accounts are not touched."  # noqa: E501 # a sentence of help

    def add_arguments(self, parser: CommandParser) -> None:
        words = parser.add_subparsers(dest="word", required=True, metavar="WORD")

        def word(name: str, run: Callable[[Mapping[str, Any]], None], text: str) -> CommandParser:
            added: CommandParser = words.add_parser(name, help=text, description=text)
            added.set_defaults(run=run)
            _add_parameters(added)
            return added

        train = word("train", self._train, "Have a filter learn ham and spam.")
        _add_directories(train)
        train.add_argument("--sent", metavar="DIR", type=Path, help="messages that were sent: learnt as ham")
        check = word("check", self._check, "Print the probability that a message is junk.")
        check.add_argument("file", metavar="FILE", type=Path)
        test = word("test", self._test, "Try a trained filter, and name what it gets wrong.")
        _add_directories(test)
        analyze = word(
            "analyze", self._analyze, "Train a new filter on some of the messages, and try it on the others."
        )
        _add_directories(analyze)
        analyze.add_argument("--train-ratio", type=float, default=0.5, metavar="X", help="of the messages; default 0.5")
        analyze.add_argument("--seed", type=int, help="the same choice of messages each time")
        play = word(
            "play", self._play, "Go through the messages by date as they came: judge each, then learn what it was."
        )
        _add_directories(play)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            options["run"](options)
        except BadFilterFile as exc:
            raise CommandError(str(exc)) from exc

    def _train(self, options: Mapping[str, Any]) -> None:
        grams = _grams(options)
        with FilterFile(options["filter"], grams) as filter_file:
            for directory, junk in _collections(options):
                trained = filter_file.train((m.words for m in _messages(directory, grams, junk=junk)), junk=junk)
                self.stdout.write(f"{directory}: {trained} messages")
            hams, spams = filter_file.totals
        self.stdout.write(f"{hams} ham and {spams} spam are trained in {options['filter']}")

    def _check(self, options: Mapping[str, Any]) -> None:
        grams = _grams(options)
        with _existing(options, grams) as filter_file:
            message = _read(options["file"], grams, junk=False)
            score = filter_file.classify(message.words, _parameters(options))
        self.stdout.write(f"{score.probability:.6f}")

    def _test(self, options: Mapping[str, Any]) -> None:
        grams = _grams(options)
        with _existing(options, grams) as filter_file:
            result = _Result()
            for directory, junk in _collections(options):
                self._judge(filter_file, _messages(directory, grams, junk=junk), options, result)
        self._print(result)

    def _analyze(self, options: Mapping[str, Any]) -> None:
        if not 0 < options["train_ratio"] < 1:
            raise CommandError(f"--train-ratio {options['train_ratio']} is not between 0 and 1")
        grams = _grams(options)
        choice = random.Random(options["seed"])  # nobody has to guess it
        others: list[_Message] = []
        with FilterFile(":memory:", grams) as filter_file:
            for directory, junk in _collections(options):
                messages = list(_messages(directory, grams, junk=junk))
                choice.shuffle(messages)
                cut = round(len(messages) * options["train_ratio"])
                filter_file.train((message.words for message in messages[:cut]), junk=junk)
                others += messages[cut:]
            hams, spams = filter_file.totals
            self.stdout.write(f"trained {hams} ham and {spams} spam")
            result = _Result()
            self._judge(filter_file, others, options, result)
        self._print(result)

    def _play(self, options: Mapping[str, Any]) -> None:
        grams = _grams(options)
        messages = [m for directory, junk in _collections(options) for m in _messages(directory, grams, junk=junk)]
        result = _Result()
        with FilterFile(":memory:", grams) as filter_file:
            for message in sorted(messages, key=lambda m: m.date):
                self._judge(filter_file, [message], options, result)
                filter_file.train([message.words], junk=message.junk)
        self._print(result)

    def _judge(
        self, filter_file: FilterFile, messages: Iterable[_Message], options: Mapping[str, Any], result: _Result
    ) -> None:
        parameters = _parameters(options)
        for message in messages:
            began = time.process_time()
            score = filter_file.classify(message.words, parameters)
            result.seconds += time.process_time() - began
            said_junk = score.probability > options["threshold"]
            if result.count(junk=message.junk, said_junk=said_junk):
                what = "spam taken for ham" if message.junk else "ham taken for spam"
                self.stdout.write(f"{message.path}: {what}, {score.probability:.6f}")

    def _print(self, result: _Result) -> None:
        for line in result.lines():
            self.stdout.write(line)


@dataclass(frozen=True, slots=True)
class _Message:
    path: Path
    words: frozenset[str]
    date: float
    junk: bool


class _Result:
    """How many messages were judged as what they are."""

    def __init__(self) -> None:
        self._ham = [0, 0]  # right, wrong
        self._spam = [0, 0]
        self.seconds = 0.0

    def count(self, *, junk: bool, said_junk: bool) -> bool:
        """Whether it is wrong."""
        wrong = junk is not said_junk
        (self._spam if junk else self._ham)[wrong] += 1
        return wrong

    def lines(self) -> Iterator[str]:
        (ham_right, ham_wrong), (spam_right, spam_wrong) = self._ham, self._spam
        total = ham_right + ham_wrong + spam_right + spam_wrong
        yield f"ham: {ham_right} right, {ham_wrong} wrong; spam: {spam_right} right, {spam_wrong} wrong"
        yield f"specificity (ham that is kept) {_share(ham_right, ham_right + ham_wrong)}"
        yield f"sensitivity (spam that is caught) {_share(spam_right, spam_right + spam_wrong)}"
        yield f"accuracy {_share(ham_right + spam_right, total)}"
        if total:
            yield f"{1000 * self.seconds / total:.3f} ms CPU for a verdict, without reading the message"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.6f}" if whole else "unknown"


def _messages(directory: Path, grams: Grams, *, junk: bool) -> Iterator[_Message]:
    if not directory.is_dir():
        raise CommandError(f"{directory} is not a directory")
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            yield _read(path, grams, junk=junk)


def _read(path: Path, grams: Grams, *, junk: bool) -> _Message:
    try:
        size = path.stat().st_size
        if size > MESSAGE_MAX:
            raise CommandError(f"{path} has {size} bytes: no message is that large")
        data = _as_received(path.read_bytes())
    except OSError as exc:
        raise CommandError(f"{path} cannot be read: {exc.strerror}") from exc
    part, _ = ensure_part(data)
    date = part.envelope.parsed_date if part.envelope else None
    return _Message(
        path,
        words_of(BytesSource(data), part.to_json(), grams),
        date.timestamp() if date is not None else 0.0,
        junk,
    )


def _as_received(data: bytes) -> bytes:
    """A message as it would come: files end their lines in LF, and from a mailbox they may begin with its From line."""
    if data.startswith(b"From "):
        data = data.partition(b"\n")[2]
    return b"".join(crlf_blocks([data]))


def _existing(options: Mapping[str, Any], grams: Grams) -> FilterFile:
    if not options["filter"].exists():
        raise CommandError(f"{options['filter']} does not exist: train a filter first, or name it with --filter")
    return FilterFile(options["filter"], grams)


def _collections(options: Mapping[str, Any]) -> Iterator[tuple[Path, bool]]:
    yield options["ham"], False
    if options.get("sent"):
        yield options["sent"], False
    yield options["spam"], True


def _grams(options: Mapping[str, Any]) -> Grams:
    return Grams(options["onegrams"], options["twograms"], options["threegrams"])


def _parameters(options: Mapping[str, Any]) -> Parameters:
    for name, most in (("max_power", 0.5), ("ignore_words", 0.5), ("threshold", 1.0)):
        if not 0 <= options[name] <= most:
            raise CommandError(f"--{name.replace('_', '-')} {options[name]} is not between 0 and {most}")
    return Parameters(options["max_power"], options["top_words"], options["ignore_words"], options["rare_words"])


def _add_directories(parser: CommandParser) -> None:
    parser.add_argument("ham", metavar="HAMDIR", type=Path)
    parser.add_argument("spam", metavar="SPAMDIR", type=Path)


def _add_parameters(parser: CommandParser) -> None:
    usual = Parameters()
    parser.add_argument(
        "--filter", metavar="FILE", type=Path, default=Path(DEFAULT_FILE), help=f"default {DEFAULT_FILE}"
    )
    parser.add_argument("--no-onegrams", dest="onegrams", action="store_false", help="single words do not count")
    parser.add_argument("--twograms", action="store_true", help="pairs of words count")
    parser.add_argument("--threegrams", action="store_true", help="groups of three words count")
    parser.add_argument("--threshold", type=float, default=0.95, metavar="X", help="junk is above it; default 0.95")
    parser.add_argument("--max-power", type=float, default=usual.max_power, metavar="X")
    parser.add_argument("--top-words", type=int, default=usual.top_words, metavar="N")
    parser.add_argument("--ignore-words", type=float, default=usual.ignore_words, metavar="X")
    parser.add_argument("--rare-words", type=int, default=usual.rare_words, metavar="N")
