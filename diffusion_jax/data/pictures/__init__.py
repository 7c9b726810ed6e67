"""Pictures: decoding, preprocessing, augmentation."""
