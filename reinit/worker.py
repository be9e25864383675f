"""A warm worker: weights, tokens and libraries are loaded once per process and serve every run after it.

Law: results are bit-equal to a fresh process per run; only time is saved. What a cell needs is checked for all cells
before the first of them trains.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from jobs.cell import Cell, Probe, canonical
from jobs.checkpoints import Binding
from jobs.errors import SpecError
from reinit.data import rows_from
from reinit.engine import engine_config
from reinit.features import FeatureCache
from reinit.network import Network, load_tokenizer, vocabulary_of
from reinit.places import Places, resolve_model, weights_sha256
from reinit.provenance import code_commit, read_provenance
from reinit.ranks import gpu_faults, join_ranks
from reinit.run import Attempt, Outcome, run_cell
from reinit.tokencache import TokenCache, determined_by, tokeniser_files
from reinit.tokens import TaskTokens

if TYPE_CHECKING:
    from reinit.checkpoint import Keeper
    from reinit.train import OnStep

T = TypeVar("T")

SHORT_CHARACTERS: Final = 1_500_000
"""Texts that are tokenised whole for the store though a run needs few of them: a CPU-second, which others save."""


class Worker:
    """Runs cells one after another on this process's device."""

    def __init__(self, places: Places, token_cache: TokenCache | None = None) -> None:
        """Join the ranks; nothing is loaded before a cell asks for it."""
        self._places = places
        self._token_cache = token_cache
        with gpu_faults():
            self._ranks = join_ranks()
        code_commit()
        # The libraries' half million objects never die: leave them out of every collection to come.
        gc.freeze()
        self._features = FeatureCache(self._ranks)
        self._tokens: dict[bytes, TaskTokens] = {}
        # Of those that were made here, the name that the store would have them under.
        self._made_here: dict[bytes, str] = {}
        self._network: tuple[bytes, Network, str] | None = None

    def agree(self, value: T) -> T:
        """The first rank's `value`, on every rank."""
        return self._ranks.agree(value)

    def any_rank(self, flag: bool) -> bool:  # noqa: FBT001  a vote, not an option
        """Whether `flag` is true on some rank; every rank must ask at the same step."""
        return self._ranks.any(flag)

    def most(self, number: int) -> int:
        """The largest `number` of any rank; every rank must ask at the same step."""
        return self._ranks.most(number)

    def check(self, cells: Iterable[Cell]) -> None:
        """Read every task's rows, load every model and try every kind of treatment, so that nothing fails later.

        Raises:
            ReinitError: what is wrong with a task or model on this machine.
        """
        cells, tried = list(cells), set()
        for cell in cells:
            self._tokens_of(cell)
            engine_config(cell.recipe, self._ranks.world_size)
            # Depths and orders were checked when the cell was made; what else a treatment asks of a network does not
            # depend on them, so one cell speaks for all that differ in nothing else.
            alike = cell.treatment.model_dump(exclude={"layers", "frozen_layers", "order", "depth"})
            recipe = cell.recipe
            key = canonical([alike, cell.model.model_dump(), cell.task.outputs, recipe.dropout, recipe.max_length])
            if key not in tried:
                tried.add(key)
                with gpu_faults():
                    self._network_of(cell)[0].prepare(cell, seed=0)
            if isinstance(cell.treatment, Probe):
                self._features.announce(cell)
        self._keep_tokens(cells)

    def run(self, cell: Cell, seed: int, on_step: OnStep, keeper: Keeper | None = None) -> Outcome:
        """One run; `on_step` hears of every optimiser step and may raise to stop between two.

        A probe needs no keeper: the passes of the network take most of its time, and leave nothing to go on from.
        """
        # An engine refers to itself, so that the one before, with its optimiser's state, waits to be collected. What
        # stays, stays for long.
        gc.collect()
        gc.freeze()
        with gpu_faults():
            tokens, (network, weights) = self._tokens_of(cell), self._network_of(cell)
            provenance = read_provenance(cell, self._ranks, weights, tokens.rows_sha256)
            if keeper:
                binding = Binding(digest=cell.digest, seed=seed, numerics=provenance.numerics, steps=cell.steps)
                keeper.begin(binding, self._ranks)
            attempt = Attempt(provenance, on_step, keeper)
            return run_cell(cell, seed, network, tokens, self._features, self._ranks, attempt)

    def _tokens_of(self, cell: Cell) -> TaskTokens:
        """Those of the store, or else of the rows, which are tokenised when a run asks for them."""
        key = _tokens_key(cell)
        if key not in self._tokens:
            folder = resolve_model(cell.model, self._places)
            self._tokens[key] = self._stored_tokens(cell, folder) or self._made_tokens(cell, folder)
        return self._tokens[key]

    def _stored_tokens(self, cell: Cell, folder: Path) -> TaskTokens | None:
        if self._token_cache is None:
            return None
        task, max_length = cell.task, cell.recipe.max_length
        name = determined_by(task, rows_from(task, self._places), tokeniser_files(folder), max_length)
        if found := self._token_cache.find(name, task, max_length, vocabulary_of(folder)):
            return TaskTokens.stored(task, *found)
        self._made_here[_tokens_key(cell)] = name
        return None

    def _made_tokens(self, cell: Cell, folder: Path) -> TaskTokens:
        tokenizer, max_length = load_tokenizer(folder), cell.recipe.max_length
        if max_length > tokenizer.model_max_length:
            raise SpecError(
                f"max_length is more than {cell.model.name} can read",
                expected=f"at most {tokenizer.model_max_length} tokens",
                got=max_length,
            )
        return TaskTokens.load(cell.task, tokenizer, max_length, self._places, vocabulary_of(folder))

    def _keep_tokens(self, cells: Sequence[Cell]) -> None:
        """Put the tokens into the store that were not there, where a run needs most of them or all cost little."""
        for key, name in self._made_here.items():
            tokens, largest = self._tokens[key], max(cell.rows for cell in cells if _tokens_key(cell) == key)
            if self._token_cache and (2 * largest > tokens.task.train_rows or tokens.characters <= SHORT_CHARACTERS):
                self._token_cache.keep(name, tokens)
        self._made_here.clear()

    def _network_of(self, cell: Cell) -> tuple[Network, str]:
        """The one network in memory, and its weights' hash; another replaces it, since two may not fit a device."""
        key = canonical([cell.model.model_dump(), cell.task.outputs, cell.recipe.dropout])
        if self._network is None or self._network[0] != key:
            self._network = None
            gc.unfreeze()
            gc.collect()
            weights = weights_sha256(resolve_model(cell.model, self._places))
            network = Network.load(cell.model, cell.task.outputs, cell.recipe, self._places)
            network.module.to(self._ranks.device)
            self._network = (key, network, weights)
        return self._network[1:]


def _tokens_key(cell: Cell) -> bytes:
    """What the tokens of a cell depend on, within this process."""
    return canonical([cell.task.model_dump(), cell.model.model_dump(), cell.recipe.max_length])
