"""`hf-ddpm doctor` from a checkout, also for launchers; the program is hf_ddpm/programs/doctor.py."""

import sys

from hf_ddpm.programs.doctor import main

if __name__ == "__main__":
    sys.exit(main())
