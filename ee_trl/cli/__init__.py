"""The command line `ee-trl`: one file a family of commands; the work is done by the package."""
