"""`hf-ddpm train` from a checkout, also for launchers; the program is hf_ddpm/programs/train.py."""

import sys

from hf_ddpm.programs.train import main

if __name__ == "__main__":
    sys.exit(main())
