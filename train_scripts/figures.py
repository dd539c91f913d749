"""`hf-ddpm figures` from a checkout, also for launchers; the program is hf_ddpm/programs/figures.py."""

import sys

from hf_ddpm.programs.figures import main

if __name__ == "__main__":
    sys.exit(main())
