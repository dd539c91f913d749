"""`hf-ddpm average` from a checkout, also for launchers; the program is hf_ddpm/programs/average.py."""

import sys

from hf_ddpm.programs.average import main

if __name__ == "__main__":
    sys.exit(main())
