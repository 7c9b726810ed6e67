"""Fine-tuning a published text-to-image pipeline on one's own captioned pictures: the whole U-Net, or a LoRA of it."""
