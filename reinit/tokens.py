"""Rows -> tokens: made when a run first needs them, or found whole in the store.

Law: an example's tokens depend on its row, the tokeniser and the length alone, however many rows were made with it and
whoever made them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, overload

from jobs.errors import DataError
from jobs.memory import no_collection
from jobs.tasks import Task
from reinit.data import Example, Rows, read_task, subset
from reinit.encoded import Encoded, Width
from reinit.places import Places

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS_AT_A_TIME: Final = 8192
"""What the library makes of as many sentences takes 60 MB until it is packed."""

_CALLED: Final = ("__call__", "_encode_plus", "_convert_encoding", "set_truncation_and_padding")
"""What stands between a tokeniser's call and its backend; architectures may have their own."""


class Examples(Sequence[Example]):
    """Rows of a split that is encoded whole, as examples: each is made when it is asked for, and not kept."""

    def __init__(self, encoded: Encoded, indices: Sequence[int]) -> None:
        """The rows at `indices`, in that order."""
        self._encoded = encoded
        self._indices = indices

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Examples: ...
    def __getitem__(self, index: int | slice) -> Example | Examples:
        """One example, or those of a slice."""
        if isinstance(index, slice):
            return Examples(self._encoded, self._indices[index])
        return Example(*self._encoded.row(self._indices[index]))


class Tokens:
    """Rows of one split as examples: tokenised when first asked for and kept, all of them once most are asked for."""

    def __init__(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, max_length: int, vocabulary: int | None = None
    ) -> None:
        """Tokenise `rows` to at most `max_length` tokens, the longer text of a pair cut first.

        Tokens at or beyond `vocabulary` are refused: the network has no embedding for them, and a GPU would end the
        process with an assertion of its own.
        """
        self._vocabulary = vocabulary
        self._rows = rows
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._examples: dict[int, Example] = {}
        self._encoded: Encoded | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def take(self, indices: Iterable[int]) -> Sequence[Example]:
        """The examples at `indices`, in that order."""
        wanted = [int(index) for index in indices]
        missing = [index for index in dict.fromkeys(wanted) if index not in self._examples]
        if self._encoded is None and 2 * (len(self._examples) + len(missing)) <= len(self):
            for index, (ids, types) in zip(missing, self._tokenised(missing), strict=True):
                self._examples[index] = Example(ids, types, self._rows.labels[index])
            return [self._examples[index] for index in wanted]
        return Examples(self.encoded(), wanted)

    def all(self) -> Sequence[Example]:
        """Every example, in row order."""
        return Examples(self.encoded(), range(len(self)))

    def encoded(self) -> Encoded:
        """All rows."""
        if self._encoded is None:
            width: Width = 2 if self._vocabulary is not None and self._vocabulary <= 2**16 else 4
            made = self._tokenised([index for index in range(len(self)) if index not in self._examples])
            rows = (
                (each.input_ids, each.token_type_ids) if (each := self._examples.get(index)) else next(made)
                for index in range(len(self))
            )
            with no_collection():
                self._encoded = Encoded.of(rows, self._rows.labels, width)
            self._examples.clear()
            # The texts have no use any more, and take more memory than the tokens.
            self._rows = Rows([], self._rows.labels)
        return self._encoded

    def _tokenised(self, indices: Sequence[int]) -> Iterator[tuple[list[int], list[int] | None]]:
        """Ids and types of the rows at `indices`, a block of them at a time: what the library makes of one is large."""
        for first in range(0, len(indices), ROWS_AT_A_TIME):
            columns = zip(*(self._rows.texts[index] for index in indices[first : first + ROWS_AT_A_TIME]), strict=True)
            rows = tokenised(self._tokenizer, [list(column) for column in columns], self._max_length)
            if (empty := next((row for row, (ids, _) in enumerate(rows) if not ids), None)) is not None:
                # Packed, it would be taken for the text after it; and a batch of nothing else has no logits.
                raise DataError(
                    "the tokeniser makes no token of a row",
                    where=f"row {indices[first + empty] + 1} of its split",
                    expected="one token or more, such as those that some tokenisers begin and end a text with",
                    got=repr(self._rows.texts[indices[first + empty]]),
                    remedy="leave rows without words out of the task's files",
                )
            largest = max(max(ids, default=0) for ids, _ in rows)
            if self._vocabulary is not None and largest >= self._vocabulary:
                raise DataError(
                    "the tokeniser makes tokens that the network does not know",
                    expected=f"token ids below {self._vocabulary}, the size of its vocabulary",
                    got=largest,
                    remedy="use the tokeniser that the model was trained with",
                )
            yield from rows


def tokenised(
    tokenizer: PreTrainedTokenizerBase, columns: Sequence[list[str]], max_length: int
) -> list[tuple[list[int], list[int] | None]]:
    """Ids and types of rows with a text in each column, as the library's own call gives them.

    That also finds where in its text each token is, which nobody wants, for a quarter of the time. So where a tokeniser
    has no call of its own, the library's is asked about the first row alone, which tells the backend the length too.
    """
    from transformers import PreTrainedTokenizerFast

    def called(columns: Sequence[list[str]]) -> list[tuple[list[int], list[int] | None]]:
        found = tokenizer(
            *columns, truncation="longest_first", max_length=max_length, return_attention_mask=False, verbose=False
        )
        return list(zip(found["input_ids"], found.get("token_type_ids") or repeat(None), strict=False))

    common = PreTrainedTokenizerFast
    if any(getattr(type(tokenizer), name, None) is not getattr(common, name) for name in _CALLED):
        return called(columns)
    assert isinstance(tokenizer, common)  # noqa: S101  it has its methods
    ((_, types),) = called([column[:1] for column in columns])
    texts: Any = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    rows = tokenizer.backend_tokenizer.encode_batch_fast(texts)
    return [(row.ids, None if types is None else row.type_ids) for row in rows]


class StoredTokens:
    """The same for a split that was encoded before."""

    def __init__(self, encoded: Encoded) -> None:
        self._encoded = encoded

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._encoded)

    def encoded(self) -> Encoded:
        """All rows."""
        return self._encoded

    def take(self, indices: Iterable[int]) -> Sequence[Example]:
        """The examples at `indices`, in that order."""
        return Examples(self._encoded, [int(index) for index in indices])

    def all(self) -> Sequence[Example]:
        """Every example, in row order."""
        return Examples(self._encoded, range(len(self)))


@dataclass(frozen=True)
class TaskTokens:
    """A task's rows behind one tokeniser."""

    task: Task
    train: Tokens | StoredTokens
    validation: Mapping[str, Tokens | StoredTokens]
    rows_sha256: str
    """Of every text and label that was read, here or where the tokens were made."""
    characters: int = 0
    """Of all texts that were read here: what tokenising all of them takes is proportional to it."""

    @classmethod
    def load(
        cls,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        places: Places,
        vocabulary: int | None = None,
    ) -> TaskTokens:
        """Read and check the task's rows; tokens come when asked for, and are checked against the vocabulary's size."""
        rows = read_task(task, places)
        return cls(
            task,
            Tokens(rows.train, tokenizer, max_length, vocabulary),
            {
                split: Tokens(split_rows, tokenizer, max_length, vocabulary)
                for split, split_rows in rows.validation.items()
            },
            rows.sha256,
            rows.characters,
        )

    @classmethod
    def stored(cls, task: Task, splits: Mapping[str, Encoded], rows_sha256: str) -> TaskTokens:
        """Tokens that were made before, the training split's under `train`."""
        validation = {split: StoredTokens(splits[split]) for split in task.splits}
        return cls(task, StoredTokens(splits["train"]), validation, rows_sha256)

    def subset(self, size: int | str, seed: int) -> Sequence[Example]:
        """The training examples of one run."""
        return self.train.take(subset(self.task, size, seed))

    @property
    def splits(self) -> dict[str, Encoded]:
        """All rows of all splits, the training split first; tokenised now where they were not."""
        return {"train": self.train.encoded(), **{name: split.encoded() for name, split in self.validation.items()}}

    @cached_property
    def scored(self) -> dict[str, Sequence[Example]]:
        """Every validation example, by split."""
        return {split: tokens.all() for split, tokens in self.validation.items()}
