"""A network as a web page to draw digits on."""
