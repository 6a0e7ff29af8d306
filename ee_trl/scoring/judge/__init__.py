"""The LLM judge: rubric, prompt, the forward pass that answers for a whole dialogue, and judges behind servers."""
