"""Measure weights on ImageNet validation photographs.

    python eval/validate_imagenet.py --data DIR ARCH.TAG

DIR holds one folder per class, named by WordNet id (n01440764, ...); fewer than 1,000 classes are fine.
"""

import sys

from measure import main

if __name__ == "__main__":
    sys.exit(main(__doc__, "imagenet"))
