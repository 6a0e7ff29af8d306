"""Human evaluation: blinded sheets for raters, and the results of their answers."""
