"""Selection while training: policies turn scores and losses into draws and loss weights."""
