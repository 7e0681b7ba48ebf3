"""What is in a data set, what is wrong with it, and how it is divided; nothing here opens a file."""
