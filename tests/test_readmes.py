"""The READMEs agree with the disk: the trees of files, the links, and the length of the first page."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TREES = ("hf_ddpm", "train_scripts", "model_cards")
"""Folders whose tree is in their README."""
READMES = [ROOT / "README.md", *(path for name in (*TREES, "tests") for path in sorted((ROOT / name).rglob("README.md")))]
UNLISTED = {"README.md", "__init__.py", "__pycache__"}


def trees(markdown: str) -> Iterator[tuple[str, list[str]]]:
    """The fenced blocks that are a tree: the folder at its top, and the paths below it. A folder ends in a slash."""
    for block in re.findall(r"^```\n(\S+/\n(?: +.*\n)+)```", markdown, flags=re.MULTILINE):
        top, *lines = block.splitlines()
        parents, paths = [], []
        for line in lines:
            depth = (len(line) - len(line.lstrip())) // 2
            name = line.split()[0]
            parents[depth - 1 :] = [name]
            paths.append("".join(parents))
        yield top, paths


def children(folder: Path) -> set[str]:
    """Names of what is in a folder, as a tree writes them."""
    found = (path for path in folder.iterdir() if path.name not in UNLISTED and not path.name.startswith("."))
    return {f"{path.name}/" if path.is_dir() else path.name for path in found}


def differences(top: Path, paths: list[str]) -> list[str]:
    """What is in the tree and not on the disk, and the other way round in every folder whose content is listed."""
    listed: dict[str, set[str]] = {}
    for path in paths:
        parent, name = re.fullmatch(r"(.*/)?([^/]+/?)", path).groups(default="")
        listed.setdefault(parent, set()).add(name)
    wrong = []
    for parent, names in listed.items():
        there = children(top / parent) if (top / parent).is_dir() else set()
        wrong += [f"{parent}{name} is not on the disk" for name in names - there]
        wrong += [f"{parent}{name} is not in the tree" for name in there - names]
    return sorted(wrong)


@pytest.mark.parametrize("folder", TREES)
def test_a_tree_is_that_of_the_disk(folder):
    found = dict(trees((ROOT / folder / "README.md").read_text(encoding="utf-8")))
    assert differences(ROOT / folder, found[f"{folder}/"]) == []


def test_a_difference_is_found(tmp_path):
    for name in ("a.py", "room/b.py", "room/c.py", "other/d.py", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    markdown = "```\ntop/\n  a.py     one\n  room/\n    b.py  two\n    gone.py  three\n  other/   not listed further\n```\n"
    ((top, paths),) = trees(markdown)
    assert top == "top/"
    assert differences(tmp_path, paths) == ["room/c.py is not in the tree", "room/gone.py is not on the disk"]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(readme):
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", readme.read_text(encoding="utf-8"))
    assert [link for link in links if not (readme.parent / link).exists()] == []


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130
