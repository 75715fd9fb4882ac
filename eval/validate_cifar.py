"""Measure weights on the CIFAR-10 or CIFAR-100 test set.

    python eval/validate_cifar.py --data DIR lrunet14_100.okankop_c10
    python eval/validate_cifar.py --dataset cifar100 --data DIR lrunet14_200.okankop_c100 --results figures.json

DIR holds the official binary files, or the official Python batches, or the folder torchvision keeps them in.
"""

import sys

from measure import main

if __name__ == "__main__":
    sys.exit(main(__doc__, "cifar10", "cifar100"))
