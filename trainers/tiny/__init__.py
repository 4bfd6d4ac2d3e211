"""What the tiny policy is made of: its documents, tokenizer, architecture, examinations and card."""
