"""What commands, training and evaluation read: which files count, and masks of every form."""
