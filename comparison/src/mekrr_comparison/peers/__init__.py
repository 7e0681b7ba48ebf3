"""Today's alternatives, each with its authors' recommended settings, behind the one interface of `Method`."""
