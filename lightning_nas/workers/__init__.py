"""Workers: where costly work takes place, on this machine or a cluster."""
