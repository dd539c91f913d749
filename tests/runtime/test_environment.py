"""What is recorded of the machine and the versions behind a result."""

import importlib.metadata
import json
import subprocess
from pathlib import Path

import pytest
import torch

from hf_ddpm.runtime.environment import describe_environment

ROOT = Path(__file__).parents[2]


def test_versions_threads_and_the_commit_of_the_checkout_are_json_values():
    found = json.loads(json.dumps(describe_environment(torch.device("cpu"), 2)))
    assert found["packages"]["torch"] == importlib.metadata.version("torch")
    assert (found["device"], found["gpu"], found["num_processes"], found["num_threads"]) == ("cpu", None, 2, 1)
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert found["commit"] == head.stdout.strip()
