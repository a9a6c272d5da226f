"""The commands of `shoal bench` beside `overhead`: each imports what it needs when it runs, as its help is for everybody."""
