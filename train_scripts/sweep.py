"""`hf-ddpm sweep` from a checkout, also for launchers; the program is hf_ddpm/programs/sweep.py."""

import sys

from hf_ddpm.programs.sweep import main

if __name__ == "__main__":
    sys.exit(main())
