"""Keep what a user has added to a folder that is published anew: `keep_additions(old, new)`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path


def keep_additions(old: Path, new: Path, replaced: Collection[str] = ()) -> None:
    """Give a new folder the files and folders of the old one that it lacks, except those named in `replaced`.

    They are hard links where possible, and links stay links, so that nothing is read, and nothing has to be readable.
    """
    for entry in sorted(old.iterdir()) if old.is_dir() else ():
        target = new / entry.name
        if entry.name in replaced or os.path.lexists(target):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, target, symlinks=True, copy_function=_link)
        else:
            _link(entry, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):  # not every file system can
        shutil.copy2(source, target, follow_symlinks=False)
