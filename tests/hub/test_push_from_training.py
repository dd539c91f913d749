"""`train.py --hub.push_to_hub`: the run ends well whatever the Hub does, and what was pushed is read back by its id."""

import os
import subprocess
import sys
from pathlib import Path

from hf_ddpm.pipeline import CFGDDPMPipeline

TRAIN_TWICE = """
import runpy, sys

script, *options = sys.argv[1:]
for name in ("refused", "pushed"):
    sys.argv = [script, *options, f"--output_dir={name}", "--hub.push_to_hub", "--hub.repo_id=digits"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert not end.code

from hf_ddpm.pipeline import CFGDDPMPipeline

CFGDDPMPipeline.from_pretrained("ada/digits").save_pretrained("read_back")
"""


def test_training_pushes_its_pipeline(hub, tiny_options, tmp_path):
    hub.fail("/whoami", 401)
    script = Path(__file__).parents[2] / "train_scripts" / "train.py"
    done = subprocess.run(
        [sys.executable, "-c", TRAIN_TWICE, str(script), *tiny_options, "--max_train_steps=2"],
        cwd=tmp_path,
        env={**os.environ, **hub.environment(tmp_path / "hf_home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "warning: --repo_id is 'digits': not pushed" in done.stderr
    assert "to try again: python train_scripts/push_to_hub.py --model refused/pipeline --repo_id digits" in done.stderr
    assert f"pushed:   {hub.address}/ada/digits" in done.stdout
    assert hub.token not in done.stdout + done.stderr
    repository = hub.repositories["ada/digits"]
    assert repository.messages == ["Upload CFGDDPMPipeline"], "one commit"
    card = repository.files["README.md"].decode()
    assert 'CFGDDPMPipeline.from_pretrained("ada/digits")' in card
    assert "samples.png" in repository.files and "digits" in card
    assert "one row per class, scheduler `dpmsolver++`, 20 steps, guidance scale 1.5, seeds 0 to 79.*" in card

    trained, read_back = (CFGDDPMPipeline.from_pretrained(tmp_path / name) for name in ("pushed/pipeline", "read_back"))
    for name, tensor in trained.unet.state_dict().items():
        assert tensor.equal(read_back.unet.state_dict()[name]), name
    assert trained.id2label == read_back.id2label
