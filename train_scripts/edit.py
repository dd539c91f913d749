"""`hf-ddpm edit` from a checkout, also for launchers; the program is hf_ddpm/programs/edit.py."""

import sys

from hf_ddpm.programs.edit import main

if __name__ == "__main__":
    sys.exit(main())
