"""benchmark.py times what it says."""


def test_times_every_way(load_script, capsys):
    load_script("benchmark").main(["--preset=digits8", "--batch_size=2", "--rounds=1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("digits8, batch 2, bf16")
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "as trained",
        "contiguous",
        "channels_last",
        "attention under autocast",
    ]
    assert "1.00 x as trained" in lines[1]
