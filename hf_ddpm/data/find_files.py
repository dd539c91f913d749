"""Find the files of a folder that may be data, and count what else is there: `find_files(Path("pets"), "pets")`."""

from __future__ import annotations

import collections
import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hf_ddpm.data.description import LeftOut
from hf_ddpm.data.own_outputs import find_samples, written_entries

IMAGE_SUFFIXES = {
    ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tga", ".tif", ".tiff", ".webp",
}  # fmt: skip
ARRAY_SUFFIX = ".npy"
ARCHIVE_SUFFIXES = {".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst"}
TABLE_SUFFIXES = {".csv", ".json", ".jsonl", ".tsv", ".xlsx"}
METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
HIDDEN = (".", "__")
# Folders that file systems and network drives make.
SYSTEM_FOLDERS = {"@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
SHOWN_SUFFIXES = 10


@dataclass(kw_only=True)
class FoundFiles:
    """What is in a folder, at any depth; files are in the order of their paths."""

    root: Path
    """The folder."""
    images: list[Path] = field(default_factory=list)
    """Files with the suffix of an image, or arrays if there are none; links that lead nowhere are among them."""
    metadata: list[Path] = field(default_factory=list)
    """Files that name the labels of images."""
    others: list[Path] = field(default_factory=list)
    """All other visible files."""
    folders: list[Path] = field(default_factory=list)
    """Visible folders."""
    hidden: list[Path] = field(default_factory=list)
    """Files and folders with hidden names."""
    loops: list[Path] = field(default_factory=list)
    """Links to a folder that they lie in."""
    samples: list[Path] = field(default_factory=list)
    """Images that hf-ddpm sample wrote."""
    written: dict[Path, str] = field(default_factory=dict)
    """Folders in which another program of this package wrote, with what that is, such as "run folders"."""

    @functools.cached_property
    def folders_with_images(self) -> set[Path]:
        """Folders in which an image lies, at any depth."""
        direct = {path.parent for path in self.images}
        return direct.union(*(path.parents for path in direct))

    def is_written(self, folder: Path) -> bool:
        """Whether something that a program of this package wrote lies in a folder."""
        return any(path.is_relative_to(folder) for path in (*self.written, *self.samples))

    def contents(self, folder: Path) -> str:
        """The files of a folder that are not images, by suffix: `3 files .HEIC, 1 file .txt`; "" = there are none."""
        found = _count_suffixes(path for path in self.others if path.is_relative_to(folder))
        return ", ".join(f"{count:,} {'file' if count == 1 else 'files'} {suffix}" for suffix, count in found.items())

    def left_out(self, read: Iterable[str] = ()) -> tuple[LeftOut, ...]:
        """What is not read besides the images; `read` are suffixes of files that are read too."""
        found = [
            LeftOut(f"files {suffix}", count, self._why_unread(suffix.lower()))
            for suffix, count in _count_suffixes(path for path in self.others if path.suffix not in read).items()
        ]
        outputs = collections.Counter(self.written.values())
        if self.samples:
            outputs["samples and their grids"] = len(self.samples)
        found += [LeftOut(what, count, "written by this package") for what, count in outputs.items()]
        if self.hidden:
            found.append(LeftOut("hidden files and folders", len(self.hidden), f"such as {self.hidden[0].name}"))
        if self.loops:
            first = self.loops[0].relative_to(self.root)
            found.append(LeftOut("links", len(self.loops), f"they lead back to a folder that they lie in, such as {first}"))
        return tuple(found)

    def _why_unread(self, suffix: str) -> str:
        if suffix in ARCHIVE_SUFFIXES:
            return "not unpacked"
        if suffix == ARRAY_SUFFIX:
            return "not read beside image files"
        is_table = self.images and suffix in TABLE_SUFFIXES
        return f"not read, labels may be in {' or '.join(METADATA_NAMES)}" if is_table else "format not read"


def find_files(folder: Path, source: str) -> FoundFiles:
    """List what is in a folder, and in the folders that links in it lead to; `source` is its name in messages.

    Names that begin with a dot or with "__" and system folders are hidden. What programs of this package wrote is listed
    apart; samples only where there are other images. A `ValueError` names a folder that cannot be read or whose name is not
    in UTF-8, and a link that leads nowhere unless it looks like an image.
    """
    found = FoundFiles(root=folder.resolve())
    _require_utf8(found.root, source)
    waiting = [(found.root, frozenset[tuple[int, int]]())]
    while waiting:
        parent, above = waiting.pop()
        try:
            status = parent.stat()
            with os.scandir(parent) as scanned:
                entries = list(scanned)
        except OSError as error:
            problem = f"whose folder {str(parent)!r} cannot be read ({error.strerror})"
            raise ValueError(f"source is {source!r}, {problem}: allow it, or move it out") from error
        identity = status.st_dev, status.st_ino
        if identity in above:
            found.loops.append(parent)
            continue
        if parent != found.root:
            found.folders.append(parent)
        what, written = written_entries(parent, {entry.name for entry in entries})
        if written:
            found.written[parent] = what
        for entry in entries:
            path = parent / entry.name
            if entry.name in written:
                continue
            if entry.name.startswith(HIDDEN) or entry.name in SYSTEM_FOLDERS:
                found.hidden.append(path)
            elif _is_folder(entry, path, source):
                _require_utf8(path, source)
                waiting.append((path, above | {identity}))
            else:
                _file_under(found, path)
    if not found.images:  # beside images, arrays are rather something else
        found.images = [path for path in found.others if path.suffix.lower() == ARRAY_SUFFIX]
        found.others = [path for path in found.others if path.suffix.lower() != ARRAY_SUFFIX]
    for paths in (found.images, found.metadata, found.others, found.folders, found.hidden, found.loops):
        paths.sort(key=lambda path: path.as_posix())
    found.samples = find_samples(found.images, found.others)
    samples = set(found.samples)
    found.images = [path for path in found.images if path not in samples]
    folders = {path.parent for path in samples} - {path.parent for path in found.images}
    found.metadata = [path for path in found.metadata if path.parent not in folders]
    return found


def is_archive(path: Path) -> bool:
    return path.suffix.lower() in ARCHIVE_SUFFIXES


def _is_folder(entry: os.DirEntry[str], path: Path, source: str) -> bool:
    """Whether an entry is a folder or a link to one; a `ValueError` if it is a link that leads nowhere and not an image."""
    try:
        if entry.is_dir():
            return True
        leads_nowhere = entry.is_symlink() and not path.exists()
    except OSError:  # a link to itself, or into a folder that may not be read
        leads_nowhere = True
    if leads_nowhere and path.suffix.lower() not in IMAGE_SUFFIXES:
        target = os.readlink(path)
        raise ValueError(f"source is {source!r}, whose link {str(path)!r} to {target!r} leads nowhere: fix or remove it")
    return False


def _file_under(found: FoundFiles, path: Path) -> None:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        found.images.append(path)
    elif path.name in METADATA_NAMES:
        found.metadata.append(path)
    else:
        found.others.append(path)


def _count_suffixes(paths: Iterable[Path]) -> dict[str, int]:
    """Number of files by suffix, the most frequent first."""
    counts = collections.Counter(
        path.suffix if re.fullmatch(r"\.\w{1,10}", path.suffix) else "without a usual suffix" for path in paths
    )
    shown = dict(counts.most_common(SHOWN_SUFFIXES))
    rest = counts.total() - sum(shown.values())
    return {**shown, "of other suffixes": rest} if rest else shown


def _require_utf8(path: Path, source: str) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        message = f"source is {source!r}, whose folder {str(path)!r} has a name that is not UTF-8: rename it"
        raise ValueError(message) from None
