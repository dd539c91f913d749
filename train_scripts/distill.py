"""`hf-ddpm distill` from a checkout, also for launchers; the program is hf_ddpm/programs/distill.py."""

import sys

from hf_ddpm.programs.distill import main

if __name__ == "__main__":
    sys.exit(main())
