"""The command lines other than `jaxcifar.main`."""
