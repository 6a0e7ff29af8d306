"""Human evaluation: blinded sheets for raters, and what their answers come to."""
