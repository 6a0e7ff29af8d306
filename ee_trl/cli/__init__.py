"""The command line `ee-trl`: one small file a command, no logic of its own."""
