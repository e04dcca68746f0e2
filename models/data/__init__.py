"""Real Chinese text for the ERNIE objectives: corpus, tokenizer, knowledge spans, masking, batches; no paddle."""
