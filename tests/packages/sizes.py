"""The budgets of the binaries: 9 MB with all stores, 5 MB without SFTP. `sizes.py DIRECTORY`"""

import pathlib
import sys

BUDGETS = {"-without-sftp": 5_000_000, "": 9_000_000}


def main(folder):
    wrong = []
    for binary in sorted(pathlib.Path(folder).glob("harmonylite-*-linux-*")):
        budget = next(bytes for ending, bytes in BUDGETS.items() if binary.name.endswith(ending))
        size = binary.stat().st_size
        print(f"{binary.name}: {size / 1e6:.2f} of {budget / 1e6:.0f} MB")
        if size > budget:
            wrong.append(binary.name)
    if wrong:
        sys.exit(f"larger than the budget: {', '.join(wrong)}")


if __name__ == "__main__":
    main(sys.argv[1])
