"""Training, evaluation and model card of `dinat_pico` on Fashion-MNIST (https://arxiv.org/abs/1708.07747).

    python -m dinat_zoo.recipes.fashion_mnist.train --data DIR --out DIR
    python -m dinat_zoo.recipes.fashion_mnist.evaluate --data DIR
    python -m dinat_zoo.recipes.fashion_mnist.card --data DIR --run DIR --ablation DIR

`DIR` of `--data` holds the data set's four IDX files, plain or gzipped; on Debian and Ubuntu the package
`dataset-fashion-mnist` puts them in `/usr/share/datasets/fashion-mnist`.
"""

from __future__ import annotations
