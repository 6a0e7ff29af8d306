"""What the recipes share: arguments, a run's folder, and the training of experts, mixtures and the whole method."""
