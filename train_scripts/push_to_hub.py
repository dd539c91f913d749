"""`hf-ddpm push` from a checkout, also for launchers; the program is hf_ddpm/programs/push_to_hub.py."""

import sys

from hf_ddpm.programs.push_to_hub import main

if __name__ == "__main__":
    sys.exit(main())
