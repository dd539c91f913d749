"""`hf-ddpm gan` from a checkout, also for launchers; the program is hf_ddpm/programs/train_gan.py."""

import sys

from hf_ddpm.programs.train_gan import main

if __name__ == "__main__":
    sys.exit(main())
