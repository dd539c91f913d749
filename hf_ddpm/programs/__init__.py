"""The programs that `hf-ddpm` and the files of train_scripts/ start: each module has options and a `main(args)`."""
