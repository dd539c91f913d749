"""`hf-ddpm classify` from a checkout, also for launchers; the program is hf_ddpm/programs/classify.py."""

import sys

from hf_ddpm.programs.classify import main

if __name__ == "__main__":
    sys.exit(main())
