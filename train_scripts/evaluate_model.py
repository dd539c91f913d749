"""`hf-ddpm evaluate` from a checkout, also for launchers; the program is hf_ddpm/programs/evaluate_model.py."""

import sys

from hf_ddpm.programs.evaluate_model import main

if __name__ == "__main__":
    sys.exit(main())
