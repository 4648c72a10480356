"""What commands, training and evaluation read: sources of images and clips, which files count, masks of every form."""
