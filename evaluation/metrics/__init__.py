"""
The arithmetic of the metrics, one module a metric; it imports without `evaluate`.

`<name>_scores` takes what the metric's card describes, with the options of
[`~ee_trl.evaluation.bootstrap.Bootstrap`] as `bootstrap`. `<name>_resampler` gives the numbers of resamples.
"""
