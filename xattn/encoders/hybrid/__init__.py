"""The default model's towers: a convolutional net and a ViT, fused; a sentence encoder."""
