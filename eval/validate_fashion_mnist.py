"""Measure weights on the Fashion-MNIST test set.

    python eval/validate_fashion_mnist.py --data DIR lrunet10_100.zoo_fmnist

DIR holds the four idx files, plain or gzipped, or the folder torchvision keeps them in.
"""

import sys

from measure import main

if __name__ == "__main__":
    sys.exit(main(__doc__, "fashion-mnist"))
