"""The recipes as a package, so that a pip user has them; run them as scripts (`ee-trl recipes copy DIR`)."""
