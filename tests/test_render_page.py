"""The script for handwritten pages, and the committed pages."""

import shutil
from pathlib import Path

import pytest

from hf_ddpm.experiments.page import read_comparisons, render

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "model_cards").glob("*/page.md"))


@pytest.fixture
def page(tmp_path) -> Path:
    """A template beside a comparison."""
    (tmp_path / "cats").mkdir()
    shutil.copy(PAGES[0].parent / "cats" / "comparison.json", tmp_path / "cats")
    text = 'distance {{ cats.metric("c_cats_cpu", "fd_judge", num_images=500) }}, ± ü\n'
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    return tmp_path / "page.md"


def test_a_page_is_written_beside_its_template(page, load_script, capsys):
    output = page.with_name("README.md")
    for _ in range(2):
        load_script("render_page").main([f"--template={page}", f"--output={output}"])
        assert output.read_text(encoding="utf-8") == "distance 10.1 ± 0.3, ± ü\n"
    assert str(output) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("template", "output", "message"),
    [
        ("page.md", "page.md", "--output is"),
        ("page.md", "cats/README.md", "give another file in the folder of the template"),
        ("pages.md", "README.md", "the file does not exist"),
        ("wrong.md", "README.md", "cats/: unknown name 'fd_jugde', give one of fd_judge"),
        ("bytes.md", "README.md", "not UTF-8 text"),
    ],
)
def test_a_mistake_is_one_line_and_no_page(page, load_script, capsys, template, output, message):
    folder = page.parent
    (folder / "wrong.md").write_text('{{ cats.metric("c_cats_cpu", "fd_jugde", num_images=500) }}')
    (folder / "bytes.md").write_bytes(b"\xff\xfe")
    with pytest.raises(SystemExit) as caught:
        load_script("render_page").main([f"--template={folder / template}", f"--output={folder / output}"])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and message in error and error.count("\n") == 1
    assert not (folder / "README.md").exists() and page.read_text(encoding="utf-8").startswith("distance {{")


def test_committed_pages_agree_with_their_results(page, load_script):
    load_script("render_page").main([f"--template={page}", f"--output={page.with_name('README.md')}"])
    for template in (*PAGES, page):
        rendered = render(template.read_text(encoding="utf-8"), read_comparisons(template.parent))
        readme = template.with_name("README.md")
        assert readme.read_text(encoding="utf-8") == rendered, f"{readme} is older: run train_scripts/render_page.py"
