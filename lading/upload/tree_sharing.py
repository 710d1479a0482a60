"""One copy of the tree for all ranks of a launch that run on one host.

Input: the world of ranks, and the path of a tree. Output: the tree, read by
the first rank of the host and mapped by the others.
Invariant: sharing saves memory and time, and is never needed: a rank that
cannot have the copy reads the tree by itself. No rank waits for a process
that is gone. Nothing is left behind, whichever rank is killed.
"""

from pathlib import Path

from lading.core.errors import LadingError
from lading.core.identity import ProcessId, decode_process, this_process
from lading.parallel.mpi import SHARED_TREE, World, gather, spread
from lading.tree.json_reader import ReadTree, read_tree
from lading.tree.sealed_tree import TreeAddress, open_tree, seal_tree

# (path, its tree or what is wrong with it); None where each rank reads by itself.
_Word = tuple[str, TreeAddress | LadingError] | None


class TreeSharing:
    """The ranks of this host; use as a context manager around what may read the tree, once in each rank."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._processes: list[ProcessId] = []
        if world.comm is not None:
            own = this_process().encode().decode()
            self._processes = [decode_process(record.encode()) for record in gather(world, own)]
        here = [process.host for process in self._processes[world.rank : world.rank + 1]]
        self._ranks = [rank for rank, process in enumerate(self._processes) if [process.host] == here]
        self._leads = self._ranks[:1] == [world.rank]
        self._open = len(self._ranks) > 1  # whether the others of this host are still to hear of the tree

    def __enter__(self) -> "TreeSharing":
        return self

    def __exit__(self, *_: object) -> None:
        if self._open and self._leads:  # it read no tree, and the others wait
            self._spread(None)

    def read(self, path: Path) -> ReadTree:
        """Return the tree of a file; raises as ``read_tree``, in all ranks of the host what the first one found."""
        if not self._open:
            return read_tree(path)
        if self._leads:
            return self._share(path)
        word = self._spread(None)
        if word is not None and word[0] == str(path.absolute()):
            if isinstance(word[1], LadingError):
                raise word[1]
            if (found := open_tree(word[1])) is not None:
                return found
        return read_tree(path)

    def lost(self) -> bool:
        """Tell whether a rank of this host is gone."""
        return any(self._processes[rank].runs() is False for rank in self._ranks)

    def _share(self, path: Path) -> ReadTree:
        try:
            found = [read_tree(path)]
        except LadingError as error:
            self._spread((str(path.absolute()), error))
            raise
        try:
            tree, address = seal_tree(found)
        except OSError:  # no such memory here, or not enough
            self._spread(None)
            return read_tree(path)
        self._spread((str(path.absolute()), address))
        return tree

    def _spread(self, word: _Word) -> _Word:
        self._open = False
        found: _Word = spread(self._world, word, self._runs, SHARED_TREE, self._ranks)
        return found

    def _runs(self, rank: int) -> bool:
        """Tell whether a rank of this host runs, as far as can be seen: who cannot be seen shares nothing."""
        return bool(self._processes[rank].runs())
