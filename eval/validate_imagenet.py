"""Measure weights on ImageNet validation photographs.

    python eval/validate_imagenet.py --data DIR ARCH.TAG

DIR holds one folder per class, named by WordNet id (n01440764, ...); fewer than 1,000 classes are fine.
"""

import sys

from zoo.cli.evaluate import validate_script

if __name__ == "__main__":
    sys.exit(validate_script(__doc__, "imagenet"))
