"""Pages: figures, charts, pictures and the HTML that holds them in one file."""
