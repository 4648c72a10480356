"""The folder of an evaluation run: its settings, and its records, which survive interruptions."""

import json
import os
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..atomic import new_file
from ..claims import FolderClaim
from ..commands.outputs import check_unused
from ..settings import setting_differences

__all__ = ["RunFolder"]

SETTINGS_FILE, RECORDS_FILE = "settings.json", "records.jsonl"

Record = dict[str, Any]


class RunFolder:
    """A folder that one run writes to, in as many sittings as it takes, and one process at a time.

    A record is one line of a file. Lines are on disk before `append` returns; of a line that was cut off, nothing is
    read back.

    Args:
      folder: made if it does not exist.
      settings: all that the records depend on, as plain values.
      writes: names of what the run puts into the folder beside its records.

    Raises:
      ValueError: if the folder holds a run with other settings, naming the differences, or is damaged; if it holds no
        run, but something under a name that this one writes to; if another process has it open.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: dict[str, Any], writes: Iterable[str] = ()):
        self.folder = Path(folder)
        self._settle(json.loads(json.dumps(settings)), (RECORDS_FILE, *writes))
        weakref.finalize(self, FolderClaim(self.folder).release)
        self._records_file = self.folder / RECORDS_FILE
        self.records = self._recover()

    def append(self, records: Iterable[Record]) -> None:
        """Adds records, whole or not at all."""
        records = list(records)
        lines = b"".join(json.dumps(record).encode() + b"\n" for record in records)
        with open(self._records_file, "ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self.records += records

    def _settle(self, settings: dict[str, Any], writes: Iterable[str]) -> None:
        path = self.folder / SETTINGS_FILE
        if not path.exists():
            check_unused(self.folder, writes)
            with new_file(path) as partial:
                partial.write_text(json.dumps(settings, indent=2) + "\n")
            return
        try:
            earlier = json.loads(path.read_text())
            if not isinstance(earlier, dict):
                raise ValueError(f"expected the settings of a run by name, got {type(earlier).__name__}")
        except ValueError as error:
            raise ValueError(f"{path} is damaged, so the run in {self.folder} cannot go on: {error}") from error
        differences = setting_differences(earlier, settings)
        if differences:
            raise ValueError(
                f"{self.folder} holds a run with other settings: {'; '.join(differences)}. Choose another output folder"
            )

    def _recover(self) -> list[Record]:
        if not self._records_file.exists():
            return []
        content = self._records_file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self._records_file, whole)
        records = []
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{self._records_file}, line {number}, is damaged: {error}") from error
        return records
