"""`hf-ddpm tune-guidance` from a checkout, also for launchers; the program is hf_ddpm/programs/tune_guidance.py."""

import sys

from hf_ddpm.programs.tune_guidance import main

if __name__ == "__main__":
    sys.exit(main())
