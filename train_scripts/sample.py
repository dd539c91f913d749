"""`hf-ddpm sample` from a checkout, also for launchers; the program is hf_ddpm/programs/sample.py."""

import sys

from hf_ddpm.programs.sample import main

if __name__ == "__main__":
    sys.exit(main())
