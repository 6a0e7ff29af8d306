"""The arithmetic of the metrics, one module a metric; it imports without `evaluate`."""
