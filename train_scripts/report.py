"""`hf-ddpm report` from a checkout, also for launchers; the program is hf_ddpm/programs/report.py."""

import sys

from hf_ddpm.programs.report import main

if __name__ == "__main__":
    sys.exit(main())
