"""From files to `Structure`s: formats, where labels are found, units."""
