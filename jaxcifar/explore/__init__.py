"""Images, networks and data sets looked at: filters, feature maps, Grad-CAM, near-duplicates."""
