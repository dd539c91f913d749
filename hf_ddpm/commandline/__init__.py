"""Parts of `hf_ddpm.cli`: words, recipes, values, names and help of the command line."""
