"""Model families and their parts: one file a family; text encoders, autoencoders and controls in own folders."""
