"""What is exported: the network as PyTorch computes it, the engine, the README of a Space, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from diffusers import DDPMScheduler

from hf_ddpm.dcgan_pipeline import DCGANGenerator, DCGANPipeline
from hf_ddpm.models.class_map_unet import ClassMapUNet
from hf_ddpm.models.conv_denoiser import ConvDenoiser
from hf_ddpm.models.tiny_unet import TinyUNet
from hf_ddpm.web import engine, network
from hf_ddpm.web.network import TOLERANCE, export_network, relative_error
from hf_ddpm.web.site import export_site, model_facts, render_readme


def test_a_site_is_complete_and_a_space(site):
    files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    page = {"index.html", "page.js", "sampling.js", "style.css", "model.onnx", "model.json", "README.md"}
    assert files == page | {f"onnxruntime-web/{name}" for name in (*engine.FILES, *engine.NOTICES)}
    first, metadata, _ = (site / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert first == "" and yaml.safe_load(metadata) | {"sdk": "static", "title": "Three pets"} == yaml.safe_load(metadata)
    assert "MIT" in (site / "onnxruntime-web" / "LICENSE").read_text()
    assert "://" not in (site / "index.html").read_text(encoding="utf-8")
    assert (
        str(Path(network.__file__).parents[2]).encode() not in (site / "model.onnx").read_bytes()
    )  # no path of this machine


def test_the_exported_network_is_that_of_the_model(site, pipeline):
    content = (site / "model.onnx").read_bytes()
    assert relative_error(content, pipeline.unet) < TOLERANCE[16] / 10
    weights = {one.name: one.data_type for one in onnx.load_from_string(content).graph.initializer}
    assert list(weights.values()).count(onnx.TensorProto.INT16) > 10
    changed = type(pipeline.unet).from_config(pipeline.unet.config)
    assert relative_error(content, changed.eval()) > 0.1


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_fewer_bits_are_fewer_bytes_and_close(site, pipeline, bits):
    model = onnx.load(site / "model.onnx")
    values = torch.randn(64, 16, 3, 3, generator=torch.Generator().manual_seed(0)).numpy()
    del model.graph.initializer[:], model.graph.node[:], model.graph.input[:], model.graph.output[:]
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "weight"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("weight", onnx.TensorProto.FLOAT, values.shape))
    if bits != 32:
        network._pack_weights(model.graph, bits)
    size = sum(len(one.raw_data) for one in model.graph.initializer)
    assert abs(size - values.size * bits / 8) <= 64 * 4
    session = network.onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(["weight"], {})
    limit = np.abs(values).max(axis=(1, 2, 3), keepdims=True) / (2 ** (bits - 1) - 1) / 2
    assert (np.abs(found - values) <= limit * 1.01).all()


def test_a_network_that_differs_is_refused(site, pipeline, monkeypatch):
    # The file of another network of the same kind, in place of its own.
    monkeypatch.setattr(network, "_to_onnx", lambda _: onnx.load(site / "model.onnx"))
    other = type(pipeline.unet).from_config(pipeline.unet.config)
    with pytest.raises(ValueError, match=r"weight_bits is 8: outputs differ from PyTorch's by .*%, at most 3.00% is"):
        export_network(other, weight_bits=8)


@pytest.mark.slow
@pytest.mark.parametrize("learns_variance", [False, True])
@pytest.mark.parametrize("network_class", [ClassMapUNet, ConvDenoiser, TinyUNet])
def test_every_network_is_exported(network_class, learns_variance):
    channels = 6 if learns_variance else 3
    size = {"sample_size": (8, 16), "in_channels": 3, "out_channels": channels, "block_out_channels": (8, 16)}
    export_network(network_class(**size, num_class_embeds=4, norm_num_groups=4), weight_bits=32)


def test_what_the_page_cannot_show_is_refused(tiny_pipeline):
    gan = DCGANPipeline(DCGANGenerator(8, 1, latent_dim=6, width=4))
    with pytest.raises(ValueError, match="a GAN has none"):
        model_facts(gan, "a")
    with pytest.raises(ValueError, match="its images have 4 channels"):
        model_facts(tiny_pipeline(channels=4), "a")


def test_facts_of_a_model_without_classes_and_of_few_timesteps(tiny_pipeline):
    facts = model_facts(tiny_pipeline(DDPMScheduler(num_train_timesteps=10), names=None), "ada/pets")
    assert facts["classes"] is None and facts["null_label"] is None and facts["defaults"]["guidance"] is None
    assert facts["title"] == "pets" and facts["defaults"]["steps"] == 10
    assert max(map(int, facts["samplers"]["ddim"]["steps"])) == 10
    json.dumps(facts, allow_nan=False)
    assert model_facts(tiny_pipeline(null=False), "a")["null_label"] is None
    assert model_facts(tiny_pipeline(), "/home/ada/runs/pets/pipeline")["model"] == "runs/pets/pipeline"
    assert yaml.safe_load(render_readme(facts, 16, "ada/pets").split("---")[1])["models"] == ["ada/pets"]


def test_another_version_of_the_engine_is_refused(pipeline, engine_dir, tmp_path):
    folder = shutil.copytree(engine_dir, tmp_path / "package")
    (folder / "dist" / engine.FILES[0]).unlink()
    with pytest.raises(ValueError, match=f"it has no {engine.FILES[0]}"):
        export_site(pipeline, tmp_path / "site", model="a", engine_dir=folder)
    (folder / "package.json").write_text('{"version": "1.0.0"}')
    with pytest.raises(ValueError, match=r"it has onnxruntime-web 1.0.0, give the folder `package` of `npm pack"):
        export_site(pipeline, tmp_path / "site", model="a", engine_dir=folder)
    assert not (tmp_path / "site").exists()


def test_a_package_that_was_changed_on_its_way_is_not_used():
    with pytest.raises(OSError, match="its sha512 differs: nothing of it is used"):
        engine.check_package(b"other")
