"""Pure torch building blocks: layers, cells, networks and their complexity."""
