"""One file a command. Each calls the function of the same name with the same arguments."""
