"""`hf-ddpm judge` from a checkout, also for launchers; the program is hf_ddpm/programs/train_judge.py."""

import sys

from hf_ddpm.programs.train_judge import main

if __name__ == "__main__":
    sys.exit(main())
