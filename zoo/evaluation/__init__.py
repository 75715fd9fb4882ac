"""Evaluation: validation on whole test sets, predictions for single images, results as files."""
