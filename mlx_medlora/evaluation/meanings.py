"""What each figure is called and what it means, in words for a reader who knows neither convention.

The dataset card calls it positive when a treatment is valid; textbooks of diagnosis, when something is found.
Here sensitivity is to errors, and three figures carry the card's name beside their own.
"""

from __future__ import annotations

CARD_NAMES = {
    "specificity": "True Positive Rate (TPR)",
    "sensitivity": "True Negative Rate (TNR)",
    "false_flag_rate": "False Positive Rate (FPR)",
}

CARD_KEYS = {"tpr": "specificity", "tnr": "sensitivity", "fpr": "false_flag_rate"}

RATES = ("f1", "mcc", "auroc", "auprc")  # figures that are no share of anything

MEANINGS = {
    "accuracy": "the share of cases that were answered rightly",
    "balanced_accuracy": "the mean of sensitivity and specificity: 0.5 for a model that always says the same",
    "sensitivity": "the share of wrong treatments whose error was found",
    "specificity": "the share of valid treatments that were found valid",
    "false_flag_rate": "the share of valid treatments that were flagged as errors",
    "ppv": "positive predictive value: the share of flagged treatments that were wrong, at this mixture",
    "npv": "negative predictive value: the share of treatments called valid that were, at this mixture",
    "f1": "the harmonic mean of sensitivity and positive predictive value",
    "mcc": "Matthews correlation of verdicts with the truth: 1 perfect, 0 no better than chance, -1 reversed",
    "auroc": "the chance that a wrong treatment gets a higher probability of ERROR than a valid one",
    "auprc": "average precision: the mean share of errors among those flagged, over all thresholds",
    "invalid_rate": "the share of answers in which no verdict could be read (counted as wrong)",
}
