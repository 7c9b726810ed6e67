"""Sources, captions, tokenizers and batches; nothing here knows a model."""
