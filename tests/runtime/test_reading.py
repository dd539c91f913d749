import pytest

from hf_ddpm.runtime.reading import MAX_DEPTH, parse_json, parse_yaml, read_json, read_yaml

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 11))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, x: 2}", {"a": {"x": 1, "y": [1, 2]}, "b": {"x": 2, "y": [1, 2]}}),
        ("- &name cat\n- *name\n", ["cat", "cat"]),
        ("a: {x: 1}\nb: {x: 2}", {"a": {"x": 1}, "b": {"x": 2}}),
        ("{a: b, b: a}", {"a": "b", "b": "a"}),
        ("[a, a, a]", ["a", "a", "a"]),
        ("", None),
    ],
)  # fmt: skip
def test_ordinary_yaml_is_read(text, value):
    assert parse_yaml(text) == value


REFUSED_YAML = {
    "anchors nested ten times": (BOMB, "counting each where an alias repeats it"),
    "anchors nested in one line": (BOMB.replace("\n", ", ").rstrip(", ").join("{}"), "alias"),
    "an alias of what is around it": ("a: &a\n  b: *a\n", r"alias \*a stands within"),
    "deep lists": ("[" * 10_000 + "]" * 10_000, "deep|nest|flow level"),
    "deep mappings": ("{a: " * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), f"more than {MAX_DEPTH} deep"),
    "deep indents": ("\n".join(" " * n + "a:" for n in range(MAX_DEPTH + 2)), f"more than {MAX_DEPTH} deep"),
    "a key twice": ("seed: 1\ndata:\n  source: digits\n  source: other\n", "'source' twice, in line 4"),
    "a key twice, once in quotes": ("{seed: 1, 'seed': 2}", "'seed' twice"),
    "an object of Python": ("!!python/object/apply:os.system [ls]", "the tag !!python/object/apply"),
    "a tag that does not fit": ("seed: !!bool maybe", "the tag !!bool"),
    "a tag of another program": ("seed: !secret key", "could not determine a constructor"),
    "a number of 5000 digits": ("seed: " + "9" * 5000, "4300"),
    "a day that does not exist": ("day: 2024-13-45", "month"),
    "many values": ("[" + "1," * 100_001 + "]", "more than 100,000 values"),
    "a long text": ("# " + "x" * 2**20, "longer than"),
    "two documents": ("a: 1\n---\nb: 2", "single document"),
    "an alias without an anchor": ("a: *b", "undefined alias"),
    "a control character": ("a: \x07", "not readable as YAML"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_YAML)
def test_yaml_that_is_refused(name):
    text, reason = REFUSED_YAML[name]
    with pytest.raises(ValueError, match=reason) as refused:
        parse_yaml(text)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' twice"),
        ("9" * 5000, "4300"),
        ('{"a": 1', "delimiter"),
        ("", "Expecting value"),
    ],
)
def test_json_that_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


@pytest.mark.parametrize(("read", "most"), [(read_yaml, 2**20), (read_json, 16 * 2**20)])
def test_files(read, most, tmp_path):
    """A sparse file of a tebibyte is not read, and a file of another encoding is named as such."""
    path = tmp_path / "file"
    path.write_text('{"a": [1, -2.5, "é"]}', encoding="utf-8")
    assert read(path) == {"a": [1, -2.5, "é"]}
    with path.open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=f"longer than {most:,} bytes"):
        read(path)
    path.write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(ValueError, match="not UTF-8 text, .* at byte 7"):
        read(path)
    with pytest.raises(OSError):
        read(tmp_path / "missing")
