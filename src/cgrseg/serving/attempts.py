"""What a block of rows remembers of the workers that died on it, so that one photo can't stop a job for ever."""

from __future__ import annotations

import json

from .storage import Storage

DEADLY = 2  # workers that may die on one photo: the first death may have had nothing to do with it


class Attempts:
    """The record of one block, a hidden file beside the outputs, there while the block is being done.

    A block that is begun a second time lost its worker. From then on its photos are done one by one, each noted
    before it is begun, so that the next death has a name.

    Args:
        storage: the outputs' folder.
        part: the block's name.
    """

    def __init__(self, storage: Storage, part: str) -> None:
        self._storage, self._name = storage, f".attempts/{part}.json"
        self._deaths: dict[str, int] = {}
        self.is_first = not storage.has(self._name)
        if not self.is_first:
            record = json.loads(storage.read(self._name))
            self._deaths = record["deaths"]
            if (photo := record["photo"]) is not None:
                self._deaths[photo] = self._deaths.get(photo, 0) + 1
        self.note(None)

    def note(self, photo: str | None) -> None:
        """Write down which photo is begun; None for no one in particular."""
        self._storage.write(self._name, json.dumps({"photo": photo, "deaths": self._deaths}).encode())

    def is_deadly(self, photo: str) -> bool:
        """Whether too many workers died on this photo."""
        return self._deaths.get(photo, 0) >= DEADLY

    def close(self) -> None:
        """The block is done."""
        self._storage.remove(self._name)
