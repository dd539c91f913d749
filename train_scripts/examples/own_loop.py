"""A training loop of your own, from the parts of this package: python own_loop.py; a second argument is its steps."""

import sys

import torch

import hf_ddpm

steps, batch_size = int(sys.argv[1]) if len(sys.argv) > 1 else 500, 128
torch.manual_seed(0)
images = hf_ddpm.load_images("digits", "train", image_size=8)
null_label = len(images.class_names)
unet = hf_ddpm.build_unet(hf_ddpm.unet_arguments("digits8", num_class_embeds=null_label + 1), null_label=null_label)
noise_scheduler = hf_ddpm.build_noise_scheduler(prediction_type="v_prediction")
alphas_cumprod, num_timesteps = noise_scheduler.alphas_cumprod, noise_scheduler.config.num_train_timesteps
optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)

for step in range(1, steps + 1):
    rows = torch.randint(len(images), (batch_size,))
    clean_images = hf_ddpm.to_model_range(images.images(rows))
    class_labels = hf_ddpm.drop_labels(images.class_labels[rows], torch.rand(batch_size), 0.1, null_label)
    loss = hf_ddpm.diffusion_loss(
        lambda noisy_images, timesteps, labels: unet(noisy_images, timesteps, class_labels=labels).sample,
        clean_images, torch.randn_like(clean_images), torch.randint(num_timesteps, (batch_size,)), class_labels,
        alphas_cumprod=alphas_cumprod, prediction_type="v_prediction",
    ).loss  # fmt: skip
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 0 or step == steps:
        print(f"step {step}: loss {loss.item():.4f}")

names = dict(enumerate(images.class_names))
hf_ddpm.CFGDDPMPipeline(unet.eval(), noise_scheduler, id2label=names, null_label=null_label).save_pretrained("runs/own_loop")
