"""How the product is put on machines: the lab, the demo, service units."""
