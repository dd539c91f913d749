"""`hf-ddpm write-card` from a checkout, also for launchers; the program is hf_ddpm/programs/write_card.py."""

import sys

from hf_ddpm.programs.write_card import main

if __name__ == "__main__":
    sys.exit(main())
