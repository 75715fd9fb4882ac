"""Word language models with symmetric recurrent layers: text, network, recipes, training, perplexity, commands."""

from .network import SymmGRU, SymmLSTM, SymmRNNLanguageModel

__all__ = ["SymmGRU", "SymmLSTM", "SymmRNNLanguageModel"]
